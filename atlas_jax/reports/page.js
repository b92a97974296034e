// Filters, search, keys and deep links of a report. All text of models goes
// in by textContent; the page asks nothing of any server.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const {arms, problems, attempts, training} = data;
  const $ = (id) => document.getElementById(id);
  const make = (tag, text, name) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    return element;
  };
  const part = (title, text) => {
    const box = make("div", undefined, "part");
    const shown = text === null || text === undefined ? "–" : String(text);
    box.append(make("h4", title), make("pre", shown === "" ? "(empty)" : shown));
    return box;
  };
  const percent = (x) => (x === null ? "–" : `${Math.round(1000 * x) / 10}%`);
  const verdict = (score) =>
    score === null ? "not judged" : score > 0.5 ? "right" : "wrong";
  const parts = (reward) => reward === null ? "–" : Object.entries(reward)
    .map(([name, value]) => `${name}: ${Math.round(1000 * value) / 1000}`).join("\n");
  const option = (select, value, text) => {
    const element = make("option", text === undefined ? value : text);
    element.value = value;
    select.append(element);
  };
  const short = (text, most) =>
    text.length > most ? text.slice(0, most) + " …" : text;

  // One row for an attempt; its body is built when it is first opened.
  const isTaught = (a) => data.alone[a.arm] !== a.arm;
  const alone = new Map();
  for (const a of attempts) {
    if (isTaught(a)) continue;
    const key = `${a.arm}/${a.problem}`;
    if (!alone.has(key)) alone.set(key, a);
    alone.set(`${key}/${a.sample}`, a);
  }
  const body = (a) => {
    const p = problems[a.problem];
    const grid = make("div", undefined, "grid");
    grid.append(part("Problem", p.question), part("Right answer", p.answer));
    if (a.probe !== null) grid.append(part("Probe (what the teacher read)", a.probe));
    if (a.teacher_text !== null) grid.append(part("Teacher: all it wrote", a.teacher_text));
    if (isTaught(a)) grid.append(part(`Teaching (${a.status || "constant"}, ${a.teaching_tokens} tokens${a.leaked ? ", LEAKS" : ""})`, a.teaching));
    const beside = `${data.alone[a.arm]}/${a.problem}`;
    const own = alone.get(`${beside}/${a.sample}`) || alone.get(beside);
    if (isTaught(a) && own) grid.append(part(`Answer alone: ${verdict(own.solution.score)} (read: ${own.solution.answer})`, own.solution.text));
    grid.append(part(`Answer${isTaught(a) ? " taught" : ""}: ${verdict(a.solution.score)} (read: ${a.solution.answer}; ${a.solution.rule})`, a.solution.text));
    if (a.reward !== null) grid.append(part("Reward by part", parts(a.reward)));
    grid.append(part("Sampling", `problem ${p.id}\nsample ${a.sample}\n${a.solution.finish_reason}\nweights ${a.weight_version === null ? "–" : a.weight_version}\n${a.seconds.toFixed(2)} s`));
    return grid;
  };
  const link = (a) => `episode=${encodeURIComponent(problems[a.problem].id)}&arm=${a.arm}&sample=${a.sample}`;
  const rowOf = (a) => {
    const p = problems[a.problem];
    const row = make("details", undefined, "episode");
    const head = make("summary");
    head.append(make("span", short(p.question, 140)));
    if (a.teaching !== null) head.append(make("span", short(a.teaching, 60), "soft"));
    head.append(make("span", short(arms[a.arm], 34), "soft"));
    const name = a.flip === null ? verdict(a.solution.score) : a.flip;
    head.append(make("span", name, name.replace("still ", "")));
    row.append(head);
    row.addEventListener("toggle", () => {
      if (row.open && row.children.length === 1) row.append(body(a));
    });
    return row;
  };

  const filters = $("filters");
  if (filters) {
    const haystack = attempts.map((a) => [problems[a.problem].question,
      problems[a.problem].id, a.probe, a.teacher_text, a.teaching, a.solution.text,
    ].join("\n").toLowerCase());
    const kinds = [...new Set(problems.map((p) => p.kind))].filter((k) => k !== null).sort();
    const counts = new Map();
    for (const a of attempts) {
      if (a.status === null) continue;
      const key = JSON.stringify([a.arm, a.teaching]);
      const entry = counts.get(key) || {arm: a.arm, teaching: a.teaching, times: 0, fixed: 0, broken: 0, right: 0};
      entry.times += 1;
      entry.fixed += a.flip === "fixed";
      entry.broken += a.flip === "broken";
      entry.right += a.solution.score !== null && a.solution.score > 0.5;
      counts.set(key, entry);
    }
    const common = [...counts.values()].sort((x, y) => y.times - x.times);
    const fill = (name, values) => {
      const select = filters.elements[name];
      option(select, "", "all");
      for (const [value, text] of values) option(select, value, text);
    };
    fill("arm", arms.map((t, i) => [String(i), t]));
    fill("flip", ["fixed", "broken", "still right", "still wrong"].map((f) => [f]));
    fill("status", [...new Set(attempts.map((a) => a.status).filter((s) => s !== null))].sort().map((s) => [s]));
    fill("kind", kinds.map((k) => [k]));
    fill("teaching", [...new Set(common.map((c) => c.teaching).filter((t) => t !== null))].map((t) => [t, short(t, 60)]));

    // As many rows at a time; more on demand, so that 10,000 stay quick.
    const STEP = 200;
    let found = [], shown = 0, current = -1;
    const list = $("list"), more = make("button", "Show more", "more");
    const grow = (upTo) => {
      const end = Math.min(found.length, upTo);
      const fragment = document.createDocumentFragment();
      for (; shown < end; shown++) fragment.append(rowOf(attempts[found[shown]]));
      more.before(fragment);
      more.hidden = shown >= found.length;
    };
    more.addEventListener("click", () => grow(shown + STEP));
    const apply = () => {
      const value = (name) => filters.elements[name].value;
      const words = value("text").toLowerCase();
      found = [];
      attempts.forEach((a, i) => {
        if ((value("arm") === "" || String(a.arm) === value("arm")) &&
            (value("flip") === "" || a.flip === value("flip")) &&
            (value("status") === "" || a.status === value("status")) &&
            (value("kind") === "" || problems[a.problem].kind === value("kind")) &&
            (value("teaching") === "" || a.teaching === value("teaching")) &&
            (words === "" || haystack[i].includes(words))) found.push(i);
      });
      list.replaceChildren(more);
      shown = 0;
      current = -1;
      grow(STEP);
      $("count").textContent = `${found.length} of ${attempts.length} episodes.`;
      for (const b of document.querySelectorAll("[data-flip]")) {
        b.setAttribute("aria-pressed", String(value("flip") === b.dataset.flip));
      }
    };
    const choose = (wanted) => {
      for (const field of filters.elements) {
        if (field.name) field.value = wanted[field.name] === undefined ? "" : wanted[field.name];
      }
      apply();
      $("episodes").scrollIntoView();
    };
    filters.addEventListener("input", apply);
    filters.addEventListener("submit", (event) => event.preventDefault());
    filters.addEventListener("reset", () => setTimeout(apply));

    const go = (to) => {
      if (to < 0 || to >= found.length) return;
      grow(to + 1);
      const rows = list.querySelectorAll(".episode");
      if (current >= 0) {
        rows[current].classList.remove("current");
        rows[current].open = false;
      }
      current = to;
      rows[to].classList.add("current");
      rows[to].open = true;
      rows[to].scrollIntoView({block: "nearest"});
      history.replaceState(null, "", `#${link(attempts[found[to]])}`);
    };
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
        if (event.key === "Escape") event.target.blur();
        return;
      }
      if (event.key === "j") go(current + 1);
      if (event.key === "k") go(current - 1);
      if (event.key === "/") {
        event.preventDefault();
        filters.elements.text.focus();
      }
    });
    const follow = () => {
      const wanted = new URLSearchParams(location.hash.slice(1));
      if (!wanted.has("episode")) return;
      const at = attempts.findIndex((a) => problems[a.problem].id === wanted.get("episode") &&
        String(a.arm) === wanted.get("arm") && String(a.sample) === wanted.get("sample"));
      if (at < 0) return;
      choose({});
      go(at);
    };
    window.addEventListener("hashchange", follow);

    // The 2 x 2 table and the kinds below it: of the whole evaluation.
    const flipArm = $("flip-arm");
    arms.forEach((title, i) => { if (data.flips[i]) option(flipArm, String(i), title); });
    flipArm.value = String(arms.length - 1);
    const drawFlips = () => {
      const arm = data.flips[flipArm.value];
      for (const b of document.querySelectorAll("[data-flip]")) {
        b.textContent = `${arm.counts[b.dataset.flip]} ${b.dataset.flip}`;
      }
      const table = make("table"), head = make("tr");
      for (const t of ["Kind", "Problems", "Right alone", "Right taught", "Fixed", "Broken", "Still wrong"]) head.append(make("th", t));
      table.append(head);
      for (const k of arm.kinds) {
        const row = make("tr");
        const cell = make("th");
        const button = make("button", k.kind);
        button.addEventListener("click", () => choose({arm: flipArm.value, kind: k.kind}));
        cell.append(button);
        row.append(cell);
        const kept = k["still right"], all = kept + k["still wrong"] + k.fixed + k.broken;
        for (const t of [all, percent((kept + k.broken) / all), percent((kept + k.fixed) / all), k.fixed, k.broken, k["still wrong"]]) row.append(make("td", t));
        table.append(row);
      }
      $("kinds").replaceChildren(...(arm.kinds.length ? [table] : []));
    };
    flipArm.addEventListener("input", drawFlips);
    for (const b of document.querySelectorAll("[data-flip]")) {
      b.addEventListener("click", () => choose({arm: flipArm.value, flip: b.dataset.flip}));
    }
    if (data.flips[flipArm.value]) drawFlips(); else $("flips").hidden = true;

    const rows = $("teaching-table").tBodies[0];
    const listed = arms.flatMap((_, i) =>
      common.filter((c) => c.arm === arms.length - 1 - i).slice(0, 100));
    for (const c of listed) {
      const row = make("tr"), cell = make("td");
      const button = make("button", c.teaching === null ? "(none: wrong form)" : short(c.teaching, 300));
      button.addEventListener("click", () => choose(
        {arm: String(c.arm), ...(c.teaching === null ? {} : {teaching: c.teaching})}));
      cell.append(button);
      row.append(cell);
      for (const t of [arms[c.arm], c.times, c.fixed, c.broken, percent(c.right / c.times)]) row.append(make("td", t));
      rows.append(row);
    }
    $("distinct").textContent = arms.map((title, i) =>
      [title, common.filter((c) => c.arm === i).length]).filter(([, n]) => n)
      .map(([title, n]) => `${title}: ${n} distinct.`).join(" ") +
      (common.length > listed.length ? " The 100 most common of an arm are shown." : "");

    const failed = attempts.filter((a) => a.leaked || (a.status !== null && a.status !== "ok"));
    $("failure-count").textContent = failed.length ? `${failed.length} episodes.` : "None.";
    $("failure-list").append(...failed.slice(0, 100).map(rowOf));
    if (failed.length > 100) $("failure-list").append(make("p", `The first 100 of ${failed.length}; the filter "Teaching status" finds the others.`, "note"));
    apply();
    follow();
  }

  for (const section of document.querySelectorAll("section:not([hidden])")) {
    const to = make("a", section.id[0].toUpperCase() + section.id.slice(1));
    to.href = `#${section.id}`;
    document.querySelector("nav").append(to);
  }

  const steps = $("step-problem");
  if (steps) {
    training.forEach((t, i) => option(steps, String(i), `${t.episodes.length} × ${short(t.question, 80)}`));
    const draw = () => {
      const t = training[Number(steps.value)];
      const head = make("div", undefined, "grid");
      head.append(part("Problem", t.question), part("Right answer", t.answer));
      const boxes = t.episodes.map((e) => {
        const box = make("details", undefined, "episode");
        box.open = t.episodes.length < 4;
        const line = make("summary");
        line.append(make("span", `step ${e.step}: alone ${percent(e.pass_rate)}, taught ${percent(e.taught_rate)}`));
        const grid = make("div", undefined, "grid");
        grid.append(part("Probe", e.probe), part("Answer alone", e.baseline));
        // Equal teachings of a group stand once.
        const groups = new Map();
        for (const g of e.teachings) {
          const key = JSON.stringify([g.text, g.taught.text, g.reward]);
          groups.set(key, {...g, times: (groups.get(key) || {times: 0}).times + 1});
        }
        for (const g of groups.values()) {
          const inner = make("div");
          inner.append(part(`${g.times} × teaching (${g.status}${g.leaked ? ", LEAKS" : ""}), reward ${g.reward === null ? "–" : g.reward.toFixed(3)}, weights ${g.weight_version}`, g.text),
            part(`Taught: ${verdict(g.taught.score)}`, g.taught.text), part("Reward by part", parts(g.reward_parts)));
          grid.append(inner);
        }
        box.append(line, grid);
        return box;
      });
      $("step-list").replaceChildren(head, ...boxes);
    };
    steps.addEventListener("input", draw);
    draw();
  }
})();
