"""A cache of huggingface_hub that a test writes, and a pointer."""

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:1\n"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_cache(root, name, kind="models", files=("config.json",), ref="main"):
  """The cache of huggingface_hub with one snapshot; where that is."""
  folder = root / f"{kind}--{name.replace('/', '--')}"
  snapshot = folder / "snapshots" / COMMIT
  for number, file in enumerate(files):
    blob = folder / "blobs" / f"{number:040x}"
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_text(file)
    (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
    up = "../" * (2 + len((snapshot / file).relative_to(snapshot).parts) - 1)
    (snapshot / file).symlink_to(f"{up}blobs/{blob.name}")
  (folder / "refs").mkdir(exist_ok=True)
  (folder / "refs" / ref).write_text(COMMIT)
  return snapshot
