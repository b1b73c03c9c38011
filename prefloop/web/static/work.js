// The page on which questions are answered: by keyboard alone, by thumb, or by mouse.
// Drafts stay in this browser until their answer is saved; an answer that could not be sent is sent again under the
// same key, so that it is stored once.
"use strict";
(() => {
  const area = document.querySelector("#task-area");
  const csrf = document.body.dataset.csrf;
  const status = document.querySelector("#status");
  const undo = document.querySelector("#undo");
  const store = (() => { try { localStorage.getItem("x"); return localStorage; } catch { return null; } })();
  let task, form, busy = false, seen = 0, since = 0, sendKey = "";

  const $ = (selector) => task.querySelector(selector);
  const $$ = (selector) => [...task.querySelectorAll(selector)];
  const say = (words, look = "") => { status.textContent = words; status.className = look; };
  const draftName = () => `prefloop:draft:${area.dataset.who}:${task.dataset.question}:${task.dataset.post}`;
  const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
  const clock = (at) => new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  const touch = matchMedia("(hover: none) and (pointer: coarse)").matches;
  const keysOn = () => document.querySelector("#keys-on")?.checked ?? true;

  // What each kind says (null: not yet enough), and how something said before is put back.
  const kinds = {
    comparison: {
      read: () => {
        const chosen = form.elements.choice?.value;
        if (!chosen) return null;
        const [choice, strength] = chosen.split(":");
        return strength ? { choice, strength: Number(strength) } : { choice };
      },
      write: (v) => {
        const wanted = `${v.choice}:${v.strength ?? (v.choice === "a" || v.choice === "b" ? 2 : "")}`;
        const found = $$("input[name=choice]").find((one) => one.value === wanted);
        if (found) found.checked = true;
      },
      words: () => $("input[name=choice]:checked")?.dataset.words ?? (touch ? "The larger the circle, the clearer" : "Choose from 1, A much better, to 7, B much better"),
      need: "Choose one first.",
    },
    ranking: {
      read: () => {
        const order = [];
        for (const one of $$("#ranking > li")) {
          if (one.dataset.tied === "yes" && order.length) order[order.length - 1].push(one.dataset.candidate);
          else order.push([one.dataset.candidate]);
        }
        return task.dataset.touched === "yes" ? { order } : null;
      },
      write: (v) => {
        const list = $("#ranking");
        for (const group of v.order) group.forEach((id, n) => {
          const one = $$("#ranking > li").find((li) => li.dataset.candidate === id);
          if (!one) return;
          one.dataset.tied = n ? "yes" : "no";
          list.append(one);
        });
        task.dataset.touched = "yes";
        number();
      },
      words: () => rankWords(),
      need: "Put them in your order first, or press save again if it is right as it stands.",
    },
    rating: {
      read: () => ($$(".criterion").every((one) => one.querySelector("input:checked")) ? kinds.rating.draft() : null),
      draft: () => {
        const chosen = $$(".criterion").filter((one) => one.querySelector("input:checked"));
        return { scores: Object.fromEntries(chosen.map((one) => [one.dataset.criterion, Number(one.querySelector("input:checked").value)])) };
      },
      write: (v) => {
        for (const [name, score] of Object.entries(v.scores)) {
          const input = $$(".criterion").find((one) => one.dataset.criterion === name)?.querySelector(`input[value="${Number(score)}"]`);
          if (input) input.checked = true;
        }
      },
      words: () => `${$$(".criterion input:checked").length} of ${$$(".criterion").length} rated`,
      need: "Rate every line first.",
    },
    approval: {
      read: () => (form.elements.approved?.value ? { approved: form.elements.approved.value === "yes" } : null),
      write: (v) => { const one = $(`input[name=approved][value=${v.approved ? "yes" : "no"}]`); if (one) one.checked = true; },
      words: () => $("input[name=approved]:checked")?.dataset.words ?? "",
      need: "Choose one first.",
    },
    edit: {
      read: () => {
        const box = $("#edited"), value = {};
        if (box.value.trim() && box.value !== box.dataset.original) value.text = box.value;
        if (marks.length) value.spans = marks.map(({ start, end, quote, comment }) => (comment ? { start, end, quote, comment } : { start, end, quote }));
        return value.text || value.spans ? value : null;
      },
      write: (v) => {
        if (v.text) $("#edited").value = v.text;
        marks = (v.spans ?? []).map((s) => ({ start: s.start, end: s.end, quote: s.quote ?? "", comment: s.comment ?? "" }));
        showMarks();
      },
      words: () => "",
      need: "Change something or mark a passage first.",
    },
    flags: {
      read: () => {
        const flags = $$("input[name=flag]:checked").map((one) => one.value);
        return flags.length || $("input[name=none]").checked ? { flags } : null;
      },
      write: (v) => {
        for (const flag of v.flags) {
          const found = $$("input[name=flag]").find((one) => one.value === flag) ?? addFlag(flag);
          found.checked = true;
        }
        $("input[name=none]").checked = !v.flags.length;
      },
      words: () => { const n = $$("input[name=flag]:checked").length; return n ? `${n} found` : ""; },
      need: "Mark what applies, or that nothing is wrong.",
    },
    demonstration: {
      read: () => ($("#written").value.trim() ? { text: $("#written").value } : null),
      write: (v) => { $("#written").value = v.text; },
      words: () => "",
      need: "Write an answer first.",
    },
  };

  // ---- one question ----
  function begin() {
    task = area.querySelector("#task");
    form = task.querySelector("#answer");
    marks = []; ranges = [];
    sendKey = newKey();
    seen = 0; since = document.hidden ? 0 : performance.now();
    for (const row of document.querySelectorAll(".keys [data-for]")) row.hidden = !row.dataset.for.split(" ").includes(task.dataset.kind);
    const last = sessionStorage.getItem("prefloop:last");
    if (undo) undo.hidden = !last || task.dataset.value !== undefined;
    if (!form) return;
    form.addEventListener("submit", (event) => { event.preventDefault(); save(); });
    form.addEventListener("input", changed);
    if (task.dataset.kind === "ranking") ranking();
    const kind = kinds[task.dataset.kind];
    if (task.dataset.value) put(kind, JSON.parse(task.dataset.value));
    else restore(kind);
    changed(null);
  }

  function put(kind, value) {
    try {
      if (!("skip" in value)) kind.write(value);
      if (value.note) { $("#note").value = value.note; $(".note").open = true; }
    } catch { /* a draft of another shape: begin anew */ }
  }

  function restore(kind) {
    const kept = store?.getItem(draftName());
    if (!kept) return;
    try {
      const draft = JSON.parse(kept);
      sendKey = draft.key;
      put(kind, draft.value);
      say("Your draft is back.");
    } catch { store.removeItem(draftName()); }
  }

  function changed(event) {
    const kind = kinds[task.dataset.kind];
    if (event?.target.name === "none" && event.target.checked) for (const one of $$("input[name=flag]")) one.checked = false;
    if (event?.target.name === "flag" && event.target.checked) $("input[name=none]").checked = false;
    const said = $("#said");
    if (said) said.textContent = kind.words();
    if (task.dataset.kind === "edit") showDiff();
    if (task.dataset.kind === "demonstration") {
      const n = $("#written").value.split(/\s+/).filter(Boolean).length;
      $("#count").textContent = n === 1 ? "1 word" : `${n} words`;
    }
    if (event && store) {
      const value = (kind.draft ?? kind.read)() ?? {};
      const note = $("#note").value.trim();
      if (note) value.note = note;
      try {
        if (Object.keys(value).length) store.setItem(draftName(), JSON.stringify({ key: sendKey, value, at: Date.now() }));
      } catch { say("This browser has no room for drafts: save before you close the page.", "bad"); }
    }
  }

  function spent() { return (seen + (since ? performance.now() - since : 0)) / 1000; }
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { seen += since ? performance.now() - since : 0; since = 0; } else since = performance.now();
  });

  // ---- saving ----
  async function save(skip) {
    if (busy || !form) return;
    const kind = kinds[task.dataset.kind];
    let value = skip === undefined ? kind.read() : { skip };
    if (!value) {
      say(kind.need, "bad");
      if (task.dataset.kind === "ranking") task.dataset.touched = "yes";
      return;
    }
    const note = $("#note").value.trim();
    if (note) value.note = note;
    const body = { value, key: sendKey, seconds: Math.round(spent() * 10) / 10 };
    if (task.dataset.lease) body.lease = task.dataset.lease;
    busy = true;
    form.classList.add("sending");
    say("Saving …");
    try { await send(body); } finally { busy = false; form?.classList.remove("sending"); }
  }

  async function send(body) {
    const from = task;
    for (let wait = 1; ; wait = Math.min(30, wait * 2)) {
      let response;
      try {
        response = await fetch(from.dataset.post, {
          method: "POST", credentials: "same-origin",
          headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf, Accept: "application/json" },
          body: JSON.stringify(body),
        });
        if (response.status >= 502) throw new Error("the server is away");
      } catch {
        say(`Not saved yet: no connection. Trying again in ${wait} s; your draft is kept.`, "bad");
        await new Promise((done) => setTimeout(done, wait * 1000));
        continue;
      }
      const said = await response.json().catch(() => ({}));
      if (response.ok) return finished(said);
      if (response.status === 409) {
        store?.removeItem(draftName());
        say(`${said.error ?? "This question was answered already."} `, "bad");
        return setTimeout(() => location.assign("/work"), 2500);
      }
      sendKey = newKey();
      return say(said.error ?? `This did not work (${response.status}).`, "bad");
    }
  }

  function finished(said) {
    store?.removeItem(draftName());
    sessionStorage.setItem("prefloop:last", said.id);
    const words = `Saved at ${clock(said.saved_at)}`;
    if (said.go) { sessionStorage.setItem("prefloop:said", words); location.assign(said.go); return; }
    document.querySelector(".notice")?.remove();
    area.innerHTML = said.next;
    begin();
    say(said.today ? `${words} · ${said.today} today` : words, "good");
    document.title = `${task.querySelector("h1").textContent} · prefloop`;
    scrollTo({ top: 0 });
    task.querySelector("h1").focus({ preventScroll: true });
  }

  function goBack() {
    const last = sessionStorage.getItem("prefloop:last");
    if (last && undo) { sessionStorage.removeItem("prefloop:last"); location.assign(`/work/history/${last}`); }
  }

  function toggleSkip(open) {
    const panel = $("#skips");
    if (!panel) return;
    panel.hidden = open === undefined ? !panel.hidden : !open;
    for (const one of $$("[data-action=skip][aria-expanded]")) one.setAttribute("aria-expanded", String(!panel.hidden));
    if (!panel.hidden) { panel.scrollIntoView({ block: "nearest" }); panel.querySelector("button").focus(); }
  }

  function uncover() {
    const cover = $("[data-cover]");
    if (!cover) return;
    cover.remove();
    $(".material").hidden = false;
    form.hidden = false;
  }

  function unfold(button) {
    const text = document.getElementById(button.dataset.unfold);
    const folded = text.classList.toggle("folded");
    button.setAttribute("aria-expanded", String(!folded));
    button.dataset.words ??= button.textContent;
    button.textContent = folded ? button.dataset.words : "Fold";
  }

  // ---- ranking ----
  function ranking() {
    number();
    for (const one of $$("#ranking > li")) one.querySelector(".handle").addEventListener("pointerdown", drag);
  }

  function number() {
    let rank = 0, place = 0;
    const all = $$("#ranking > li");
    for (const one of all) {
      place += 1;
      if (place === 1) one.dataset.tied = "no";
      if (one.dataset.tied !== "yes") rank = place;
      one.querySelector(".rank").textContent = `${rank}.`;
      one.querySelector("[data-move=tie]").setAttribute("aria-pressed", String(one.dataset.tied === "yes"));
      one.querySelector("[data-move=tie]").disabled = place === 1;
      one.querySelector("[data-move=up]").disabled = place === 1;
      one.querySelector("[data-move=down]").disabled = place === all.length;
    }
  }

  function rankWords() {
    return $$("#ranking > li").map((one, n) => (n ? (one.dataset.tied === "yes" ? " = " : " › ") : "") + one.dataset.letter).join("");
  }

  function move(one, how) {
    const before = one.previousElementSibling, after = one.nextElementSibling;
    if (how === "up" && before) before.before(one);
    if (how === "down" && after) after.after(one);
    if (how === "tie" && before) one.dataset.tied = one.dataset.tied === "yes" ? "no" : "yes";
    moved(one);
  }

  function moved(one) {
    task.dataset.touched = "yes";
    number();
    changed({ target: one });
    say(`${one.dataset.letter} is ${one.querySelector(".rank").textContent.replace(".", "")} of ${$$("#ranking > li").length}`);
  }

  function drag(event) {
    const handle = event.currentTarget, one = handle.closest("li");
    event.preventDefault();
    handle.setPointerCapture(event.pointerId);
    one.classList.add("dragged");
    const follow = (at) => {
      for (const other of $$("#ranking > li")) {
        if (other === one) continue;
        const box = other.getBoundingClientRect(), middle = box.top + box.height / 2;
        const below = one.compareDocumentPosition(other) & Node.DOCUMENT_POSITION_FOLLOWING;
        if (below && at.clientY > middle) { other.after(one); number(); }
        if (!below && at.clientY < middle) { other.before(one); number(); break; }
      }
    };
    const drop = () => {
      handle.removeEventListener("pointermove", follow);
      one.classList.remove("dragged");
      moved(one);
    };
    handle.addEventListener("pointermove", follow);
    handle.addEventListener("pointerup", drop, { once: true });
    handle.addEventListener("pointercancel", drop, { once: true });
  }

  // ---- edit: what changed, and passages that are marked on the rendered text ----
  let marks = [], ranges = [];

  function tokens(text) { return text.match(/\s+|[^\s]+/g) ?? []; }

  function difference(a, b) {
    let from = 0, aEnd = a.length, bEnd = b.length;
    while (from < aEnd && from < bEnd && a[from] === b[from]) from += 1;
    while (aEnd > from && bEnd > from && a[aEnd - 1] === b[bEnd - 1]) { aEnd -= 1; bEnd -= 1; }
    const x = a.slice(from, aEnd), y = b.slice(from, bEnd), out = [["same", a.slice(0, from).join("")]];
    if (x.length * y.length > 4_000_000) out.push(["old", x.join("")], ["new", y.join("")]);
    else {
      const width = y.length + 1, table = new Uint16Array((x.length + 1) * width);
      for (let i = x.length - 1; i >= 0; i -= 1) for (let j = y.length - 1; j >= 0; j -= 1) {
        table[i * width + j] = x[i] === y[j] ? table[(i + 1) * width + j + 1] + 1 : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
      }
      let i = 0, j = 0;
      while (i < x.length || j < y.length) {
        if (i < x.length && j < y.length && x[i] === y[j]) { out.push(["same", x[i]]); i += 1; j += 1; }
        else if (j >= y.length || (i < x.length && table[(i + 1) * width + j] >= table[i * width + j + 1])) { out.push(["old", x[i]]); i += 1; }
        else { out.push(["new", y[j]]); j += 1; }
      }
    }
    out.push(["same", a.slice(aEnd).join("")]);
    return out;
  }

  function showDiff() {
    const box = $("#edited"), diff = $("#diff");
    diff.replaceChildren();
    if (box.value === box.dataset.original) { diff.textContent = "Nothing yet."; return; }
    for (const [what, text] of difference(tokens(box.dataset.original), tokens(box.value))) {
      if (!text) continue;
      const piece = document.createElement(what === "same" ? "span" : what === "old" ? "del" : "ins");
      piece.textContent = text;
      diff.append(piece);
    }
  }

  // Where a rendered passage stands in its source, formatting marks inside it included: letter by letter, both in order.
  function along(rendered, source, from, to) {
    let at = 0, start = -1;
    for (let n = 0; n < to; n += 1) {
      if (/\s/.test(rendered[n])) continue;
      const next = source.indexOf(rendered[n], at);
      if (next === -1) return null;
      if (n >= from && start === -1) start = next;
      at = next + 1;
    }
    return start === -1 ? null : [start, at];
  }

  const points = (text) => Array.from(text).length; // Python counts code points, JavaScript UTF-16 units

  function mark() {
    const root = $("#rendered"), chosen = getSelection();
    if (!root || !chosen.rangeCount || chosen.isCollapsed) return say("Select a passage first.", "bad");
    const range = chosen.getRangeAt(0);
    if (!root.contains(range.commonAncestorContainer)) return say("Select a passage of the answer.", "bad");
    const quote = range.toString(), source = $("#edited").dataset.original;
    const before = document.createRange();
    before.setStart(root, 0);
    before.setEnd(range.startContainer, range.startOffset);
    // The same passage, counted from the beginning: formatting marks stand in the source and not on the page.
    const rendered = root.textContent, offset = before.toString().length;
    let nth = 0;
    for (let at = rendered.indexOf(quote); at !== -1 && at < offset; at = rendered.indexOf(quote, at + 1)) nth += 1;
    let at = source.indexOf(quote);
    while (nth > 0 && at !== -1) { at = source.indexOf(quote, at + 1); nth -= 1; }
    const found = at === -1 ? along(rendered, source, offset, offset + quote.length) : [at, at + quote.length];
    if (!found) return say("This passage cannot be found in the source. Mark a shorter one.", "bad");
    const start = points(source.slice(0, found[0])), marked = source.slice(...found);
    marks.push({ start, end: start + points(marked), quote: marked, comment: "" });
    ranges.push(range.cloneRange());
    chosen.removeAllRanges();
    showMarks();
    changed({ target: root });
    say("Marked.");
  }

  function showMarks() {
    const list = $("#marks");
    list.replaceChildren();
    marks.forEach((one, n) => {
      const row = document.createElement("li"), quote = document.createElement("q"), box = document.createElement("input"), off = document.createElement("button");
      quote.textContent = one.quote.length > 80 ? `${one.quote.slice(0, 79)}…` : one.quote;
      box.value = one.comment; box.maxLength = 300; box.placeholder = "what is wrong, or what it should say";
      box.setAttribute("aria-label", `About: ${one.quote.slice(0, 60)}`);
      box.addEventListener("input", () => { one.comment = box.value; changed({ target: box }); });
      off.type = "button"; off.className = "small"; off.textContent = "Remove";
      off.addEventListener("click", () => { marks.splice(n, 1); ranges.splice(n, 1); showMarks(); changed({ target: list }); });
      row.append(quote, box, off);
      list.append(row);
    });
    if (globalThis.Highlight && CSS.highlights) CSS.highlights.set("marked", new Highlight(...ranges));
  }

  function addFlag(name) {
    const label = document.createElement("label"), box = document.createElement("input"), words = document.createElement("span");
    label.className = "check"; box.type = "checkbox"; box.name = "flag"; box.value = name; words.textContent = name;
    label.append(box, words);
    $(".flags .none").before(label);
    return box;
  }

  function ownFlag() {
    const box = $("#own-flag"), name = box.value.trim();
    if (!name) return;
    const found = $$("input[name=flag]").find((one) => one.value === name) ?? addFlag(name);
    found.checked = true;
    box.value = "";
    changed({ target: found });
  }

  // ---- keys and clicks ----
  const actions = {
    save: () => save(), skip: () => toggleSkip(), undo: goBack, uncover, mark, "own-flag": ownFlag,
    "own-skip": () => { const why = $("#own-reason").value.trim(); if (why) save(why); },
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.unfold) unfold(button);
    else if (button.dataset.skip) save(button.dataset.skip);
    else if (button.dataset.move) { move(button.closest("li"), button.dataset.move); button.focus(); }
    else if (button.type !== "submit" && actions[button.dataset.action]) actions[button.dataset.action]();
  });
  // The mouse button must not take the selection away before it is marked.
  document.addEventListener("mousedown", (event) => { if (event.target.closest("[data-action=mark]")) event.preventDefault(); });

  document.addEventListener("keydown", (event) => {
    const target = event.target, writing = target.matches("textarea, input:not([type=radio]):not([type=checkbox])");
    if (event.key === "Escape") { if (writing) target.blur(); toggleSkip(false); return; }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); save(); return; }
    if (event.ctrlKey || event.metaKey || event.altKey || !form) return;
    if (writing) {
      if (event.key !== "Enter" || target.matches("textarea")) return;
      event.preventDefault();
      if (target.id === "own-flag") ownFlag();
      if (target.id === "own-reason") actions["own-skip"]();
      return;
    }
    if (event.key === "Enter") { if (!target.closest("a, button, summary")) { event.preventDefault(); save(); } return; }
    if (!keysOn() || event.isComposing) return;
    if (key(event.key, target)) event.preventDefault();
  });

  function key(name, target) {
    const panel = $("#skips");
    if (panel && !panel.hidden) {
      const found = panel.querySelector(`[data-skip-key="${CSS.escape(name)}"]`);
      if (found) { save(found.dataset.skip); return true; }
    }
    if (name === "s") { toggleSkip(); return true; }
    if (name === "u") { goBack(); return true; }
    if (name === "v" && $("[data-cover]")) { uncover(); return true; }
    if (name === "m" && task.dataset.kind === "edit") { mark(); return true; }
    if (name === "g") { const g = document.querySelector("#guideline"); if (g) g.open = !g.open; return Boolean(g); }
    if (name === "f") { const all = $$("[data-unfold]"); all.forEach(unfold); if (all.length) return true; }
    if (name === "?") { const keys = document.querySelector(".keys"); if (keys) keys.open = !keys.open; return true; }
    if (form.hidden) return false;
    if (task.dataset.kind === "ranking") return rankKey(name, target);
    if (task.dataset.kind === "rating") return rateKey(name, target);
    const input = form.querySelector(`input[data-key="${CSS.escape(name)}"]`);
    if (!input) return false;
    input.checked = input.type === "radio" ? true : !input.checked;
    changed({ target: input });
    return true;
  }

  function rankKey(name, target) {
    const all = $$("#ranking > li"), one = target.closest("#ranking > li");
    const step = { j: 1, k: -1 }[name];
    if (step) { (all[one ? all.indexOf(one) + step : 0] ?? one ?? all[0]).focus(); return true; }
    const how = { ArrowUp: "up", ArrowDown: "down", "=": "tie" }[name];
    if (how && one) { move(one, how); one.focus(); return true; }
    return false;
  }

  function rateKey(name, target) {
    const all = $$(".criterion");
    const here = target.closest(".criterion") ?? all.find((one) => !one.querySelector("input:checked")) ?? all[all.length - 1];
    const step = { j: 1, k: -1 }[name];
    const to = (one) => (one?.querySelector("input:checked") ?? one?.querySelector("input"))?.focus();
    if (step) { to(all[all.indexOf(here) + step] ?? here); return true; }
    if (!/^[1-5]$/.test(name)) return false;
    const input = here.querySelector(`input[value="${name}"]`);
    input.checked = true;
    changed({ target: input });
    to(all[all.indexOf(here) + 1] ?? here);
    return true;
  }

  const guide = document.querySelector("#guideline");
  if (guide) {
    // Beside the task where there is room, until somebody folds it.
    guide.open = matchMedia("(min-width: 64rem)").matches && store?.getItem("prefloop:guideline") !== "closed";
    guide.addEventListener("toggle", () => store?.setItem("prefloop:guideline", guide.open ? "open" : "closed"));
  }
  const keysBox = document.querySelector("#keys-on");
  if (keysBox && store) {
    keysBox.checked = store.getItem("prefloop:keys") !== "off";
    keysBox.addEventListener("change", () => store.setItem("prefloop:keys", keysBox.checked ? "on" : "off"));
  }
  addEventListener("beforeunload", (event) => { if (busy) event.preventDefault(); });
  begin();
  const before = sessionStorage.getItem("prefloop:said");
  if (before) { sessionStorage.removeItem("prefloop:said"); say(before, "good"); }
})();
