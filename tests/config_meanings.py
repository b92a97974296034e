"""What a config key means, where the comment at its field does not say it.

CLASS.FIELD -> words, shown before the field's comment; with a full stop at the
end, instead of it. See config_keys.py.
"""

MEANINGS = {
  "RunConfig.seed": "of weights drawn anew, order and sampling",
  "RunConfig.phases": "what is run, in this order: sft, grpo, evaluate, export",
  "RunConfig.keep_checkpoints": "checkpoints that stay:",
  "MeshConfig.data": "replicas; over the slow network between hosts",
  "MeshConfig.fsdp": "parts of the weights, and of the batch",
  "MeshConfig.tensor": "parts of heads, feed-forward and vocabulary",
  "MeshConfig.context": "parts of the tokens of a row",
  "ModelConfig.param_dtype": (
    "of the master weights. In bfloat16 a weight hardly"
    " moves at a small learning rate"
  ),
  "ModelConfig.compute_dtype": "of the arithmetic",
  "ModelConfig.remat": (
    "what is computed again for the gradient instead of kept: nothing, all"
    " but the products of matrices and attention, all of a layer"
  ),
  "DataConfig.source": "how problems are read or made",
  "DataConfig.verifier": "a verifier of your own,",
  "DataConfig.own_deadline_s": "seconds for one call of a function of yours.",
  "DataConfig.own_processes": "how many calls of them there are at one time",
  "DataConfig.max_too_long": "from 0 to 1:",
  "DataConfig.fingerprint": "leave it None:",
  "DataConfig.validation_path": "the validation problems; None: a share",
  "DataConfig.test_path": "the test problems; None: a share",
  "DataConfig.split_fractions": "shares of train, validation, test",
  "DataConfig.seed": "of what a generated source makes",
  "DataConfig.sft_source": "how examples for SFT are read or made",
  "DataConfig.sft_path": "their file, or a directory of episodes",
  "DataConfig.sft_params": "of a generated source of examples",
  "PromptsConfig.student_baseline": "to the student, for its unaided solution",
  "PromptsConfig.student_probe": "to the student, for its plan (probe)",
  "PromptsConfig.teacher": "to the teacher; probe is the plan",
  "PromptsConfig.student_taught": "to the student, taught",
  "RewardConfig.efficiency_weight": (
    "times the share of tokens that a right solution saved over the unaided"
  ),
  "RewardConfig.format_penalty": "taken off for:",
  "RewardConfig.leak_penalty": "taken off when:",
  "RewardConfig.length_cost": "taken off:",
  "SftConfig.steps": "updates of SFT. One of steps and epochs, the other None.",
  "SftConfig.epochs": (
    "the same as passes over the examples; ends with the step that trains"
    " the last of them and is filled up from the next."
  ),
  "SftConfig.max_skipped_steps": "updates left out (NaN)",
  "SftConfig.checkpoint_every": "steps between two checkpoints",
  "OptimizerConfig.learning_rate": "at its peak",
  "OptimizerConfig.warmup_steps": "updates until the peak",
  "OptimizerConfig.schedule": "of the learning rate after the warm-up",
  "OptimizerConfig.b1": "decay of the first moment",
  "OptimizerConfig.b2": "decay of the second moment",
  "OptimizerConfig.eps": "added to the root of the second moment",
  "OptimizerConfig.clip_norm": "a gradient of a larger L2 norm is scaled to it",
  "GrpoConfig.steps": "batches that are sampled and trained on",
  "GrpoConfig.problems_per_step": "problems a batch, group_size teachings each",
  "GrpoConfig.row_length": (
    "tokens of a packed row; problems whose teaching may not fit are left out"
  ),
  "GrpoConfig.loss_type": "formulas: atlas_jax/training/losses.py",
  "GrpoConfig.ratio_level": (
    "of policy and old policy: of a token, or of its whole teaching"
  ),
  "GrpoConfig.eps_low": "the ratio is clipped at 1 - eps_low",
  "GrpoConfig.eps_high": "the ratio is clipped at 1 + eps_high",
  "GrpoConfig.advantage": (
    "the reward less the mean of its group, divided by the spread of the"
    " group or of the batch;"
  ),
  "GrpoConfig.mismatch": (
    "correction where trainer and server have other log-probs: of a token"
    " or its sequence, bounded or left out"
  ),
  "GrpoConfig.mismatch_min": "the least ratio of trainer to server",
  "GrpoConfig.mismatch_max": "the largest",
  "GrpoConfig.max_skipped_steps": "updates left out (NaN or skip_grad_norm)",
  "GrpoConfig.mask_truncated": "no training on:",
  "GrpoConfig.checkpoint_every": "steps between two checkpoints",
  "ServingConfig.start_timeout_s": "until a server must be healthy",
  "ServingConfig.request_timeout_s": "of one request, or of taking weights",
  "ServingConfig.retries": "attempts after the first:",
  "ServingConfig.restarts": "how often it is started again:",
  "ServingConfig.max_concurrency": "requests under way at one server",
  "ServerConfig.url": "http://HOST:PORT of one that runs; None: spawn it",
  "ServerConfig.port": "to listen at, when spawned",
  "ServerConfig.dtype": "of its weights",
  "ServerConfig.max_model_len": (
    "tokens of its longest sequence, prompt included"
  ),
  "ServerConfig.max_num_seqs": "sequences that it works on at one time",
  "ServerConfig.kv_cache_bytes": "memory for their keys and values",
  "ServerConfig.extra_args": "more flags for vLLM",
  "ServerConfig.cpu_cores": "such as 0-3 or 0,2; empty: half of the machine's.",
  "EvaluateConfig.split": "of the problems",
  "EvaluateConfig.problems": "of the split; all where there are fewer",
  "EvaluateConfig.teacher_temperature": "of teachings, in evaluation",
  "EvaluateConfig.student_temperature": "of solutions, in evaluation",
  "EvaluateConfig.bootstrap_resamples": "for the intervals",
  "ExportConfig.path": "the Hugging Face directory to write",
  "ExportConfig.dtype": "of the weights there",
  "OnlineConfig.seed": "of order, search and sampling",
  "OnlineConfig.agent_dollars_per_call": "dollars:",
  "ObjectivesConfig.accuracy": "the taught solution is right",
  "ObjectivesConfig.non_degradation": "teaching made it no worse",
  "ObjectivesConfig.leak_penalty": "taken off when:",
  "SizesConfig.train": "problems that the search learns from",
  "SizesConfig.validation": "problems that candidates are compared on",
  "SizesConfig.test": "problems that decide in the end",
  "SearchConfig.evolve": (
    "templates that may change; the others are held fixed."
  ),
  "SearchConfig.max_rounds": (
    "rounds: each is to improve one candidate on one minibatch"
  ),
  "SearchConfig.max_candidates": (
    "accepted ones, the seed included; then the search ends."
  ),
  "ReflectionConfig.max_tokens": "of a proposal",
  "ReflectionConfig.temperature": "of a proposal",
  "ReflectionConfig.attempts": (
    "proposals a round: after a refused one the next."
  ),
  "ReflectionConfig.max_prompt_chars": "the longest template that is taken.",
  "ReflectionConfig.max_example_chars": (
    "the most of each text that the reflection model is shown."
  ),
  "ReflectionConfig.max_failures": "calls without an answer:",
  "ReflectionConfig.remembered": (
    "refused proposals that the reflection model is shown."
  ),
  "ChoosingConfig.best_of": "candidates:",
  "ChoosingConfig.bootstrap_resamples": "for the intervals",
  "ServersConfig.start_timeout_s": "until a server must be healthy",
  "ChatModelConfig.kind": (
    "litellm, url, callable; in an optimisation also local."
  ),
  "ChatModelConfig.requests_per_minute": "at the most; None: no bound",
  "ChatModelConfig.price_in": "of prompt tokens:",
  "ChatModelConfig.price_out": "of answer tokens, as price_in",
  "AgentConfig.kind": (
    "http, python, cli, responses or agents_sdk; None: there is no agent."
  ),
  "AgentConfig.retries": "attempts after the first:",
  "HttpAgentConfig.url": "where it is asked",
  "HttpAgentConfig.method": "of the request",
  "HttpAgentConfig.headers": "NAME: VALUE",
  "HttpAgentConfig.query": "NAME: VALUE, behind the url",
  "HttpAgentConfig.body": "JSON of the request;",
  "HttpAgentConfig.answer": "where the answer stands:",
  "HttpAgentConfig.finish_reason": "where the reason of the end stands:",
  "HttpAgentConfig.prompt_tokens": "where the count of prompt tokens stands:",
  "HttpAgentConfig.completion_tokens": (
    "where the count of answer tokens stands:"
  ),
  "PythonAgentConfig.target": "the function:",
  "CliAgentConfig.argv": "the command and its arguments",
  "CliAgentConfig.prompt_by": "how the prompt reaches it:",
  "CliAgentConfig.output_regex": "searched in stdout:",
  "ResponsesAgentConfig.model": "the model's name",
  "ResponsesAgentConfig.base_url": "of the server, /v1 included",
  "ResponsesAgentConfig.api_key_env": "the variable that holds the key",
  "ResponsesAgentConfig.instructions": "as the API has them",
  "ResponsesAgentConfig.max_output_tokens": "of an answer; None: the API's",
  "ResponsesAgentConfig.temperature": "of an answer; None: the API's",
  "ResponsesAgentConfig.extra": "more fields of the request",
  "AgentsSdkConfig.max_turns": "model calls of one answer",
  "AgentsSdkConfig.api_key_env": "the variable that holds the key there",
  "AgentsSdkConfig.api": "that the models speak",
  "Caps.dollars": "at the prices of the models",
  "ProxyConfig.host": "the address to listen at",
  "ProxyConfig.port": "the port to listen at",
  "ProxyConfig.breaker_open_s": "that time, in which it is not asked",
  "ProxyConfig.connect_timeout_s": "to reach a server, or its list of models",
  "ProxyConfig.max_request_bytes": "of one request",
  "ProxyConfig.max_connections": "clients connected at one time;",
  "ChatServerConfig.model": "as its /v1/models lists it;",
  "UpstreamConfig.model": "as its /v1/models lists it;",
}
