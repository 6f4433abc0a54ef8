// The live panel: shows what the kernel tells of a run, and sends back what the user asks of it.
// Text from the kernel is shown as text alone (textContent): names, code and messages are never HTML.

const MEBIBYTE = 2 ** 20;
const HELLO_EVERY_MS = 1000; // until a welcome comes
const HELLOS = 10;
const UNHEARD_AFTER_MS = 3000;
const TYPING_MS = 400; // an arrow key held down asks for one N, not for twenty
const MOST_MICRO_BATCHES = 1_000_000;
const MOST_CELLS = 64; // above, cells are thinner than the gaps between them
const NEAR = 3; // a level up to so many times above the data is drawn; a farther one would flatten the curve

const PARTS = ["parameters", "gradients", "optimizer_state", "activations", "other"];
const LEVELS = [
  ["am-peak", "peak", "peak_bytes"],
  ["am-plain", "plain cell about", "plain_bytes"],
  ["am-budget", "budget", "limit_bytes"],
];
const COMMANDS = { pause: "Pausing", resume: "Resuming" };
const UNHEARD = "The kernel does not hear this page while the cell runs: use the notebook's interrupt button";
const REACH = { immediate: "Controls act at once", update: "Controls act at the next micro-batch" };
const OVER = "This panel's run is over";

// --- numbers as text, the same as accum_magic/view/text.py writes them ---

/** Python's round: halves go to the even neighbour. */
function rounded(number) {
  const up = Math.round(number);
  return up - number === 0.5 && up % 2 !== 0 ? up - 1 : up;
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

/** 1234.5 -> "1,234" */
function counted(number) {
  return isNumber(number) ? rounded(number).toLocaleString("en-US") : "–";
}

/** 2 ** 29 -> "512 MiB" */
function mebibytes(bytes) {
  return isNumber(bytes) ? `${counted(bytes / MEBIBYTE)} MiB` : "–";
}

/** A part of the memory, where less than a MiB counts: 419430 -> "0.4 MiB" */
function smallMebibytes(bytes) {
  return isNumber(bytes) && bytes < 10 * MEBIBYTE ? `${(bytes / MEBIBYTE).toFixed(1)} MiB` : mebibytes(bytes);
}

/** 42 -> "0:42", 3723 -> "1:02:03" */
function clock(seconds) {
  const whole = rounded(seconds);
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

/** Python's .4g: 0.41234 -> "0.4123", 12345 -> "1.234e+04" */
function fourDigits(number) {
  const [mantissa, exponent] = number.toExponential(3).split("e");
  if (exponent >= -4 && exponent < 4) return String(Number(number.toPrecision(4)));
  return `${Number(mantissa)}e${exponent[0]}${exponent.slice(1).padStart(2, "0")}`;
}

// --- curves ---

/** The two curves of a message: the number of points of each, then their (step, MiB) and (step, loss). */
function curvesIn(buffers) {
  const view = buffers?.[0];
  if (!view || view.byteLength < 8) return null;
  // a copy: the view may start at an offset that no Float32Array takes
  const bytes = new Uint8Array(view.buffer ?? view, view.byteOffset ?? 0, view.byteLength).slice();
  const [memories, losses, ...numbers] = new Float32Array(bytes.buffer, 0, bytes.byteLength >> 2);
  const points = Array.from({ length: memories + losses }, (_, i) => [numbers[2 * i], numbers[2 * i + 1]]);
  return {
    memory: points.slice(0, memories).map(([step, mebibytes]) => [step, mebibytes * MEBIBYTE]),
    loss: points.slice(memories),
  };
}

/** The curve as an SVG path in a box of 100 x 100, and the area below it; a long step has many points of memory. */
function paths(points, bottom, top) {
  if (!points.length) return { line: "", area: "" };
  const x = (i) => (points.length > 1 ? (100 * i) / (points.length - 1) : 100);
  const y = (value) => 100 - (100 * (value - bottom)) / (top - bottom || 1);
  const at = points.map(([, value], i) => `${x(i).toFixed(2)} ${y(value).toFixed(2)}`);
  const line = points.length > 1 ? `M${at.join("L")}` : `M0 ${at[0].split(" ")[1]}H100`;
  return { line, area: `${line}V100H0Z` };
}

/** Where the scale of the memory ends: above the data, and above the levels that are near. */
function scaleOf(points, { memory_bytes, peak_bytes, limit_bytes, plain_bytes }) {
  const values = points.map(([, bytes]) => bytes);
  const data = Math.max(1, memory_bytes ?? 0, peak_bytes ?? 0, ...values);
  const most = Math.max(data, ...[limit_bytes, plain_bytes].filter((bytes) => isNumber(bytes) && bytes <= NEAR * data));
  const least = Math.min(most, ...values);
  // on a CPU the libraries fill most of it, and what a step takes would be a ripple at the top
  const bottom = least > most / 2 && least < most ? least - (most - least) / 4 : 0;
  return [bottom, most + 0.08 * (most - bottom)];
}

// --- elements ---

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

/** Untouched where nothing has changed: a live region then says nothing, and a selection stays. */
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function chart(name) {
  const [area, line] = [svg("path", { class: "am-area" }), svg("path", { class: "am-line" })];
  // stretched to the width it is given; what it shows is told as text beside it
  const attributes = { class: name, viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" };
  const draw = (points, bottom, top) => {
    const drawn = paths(points, bottom, top);
    area.setAttribute("d", drawn.area);
    line.setAttribute("d", drawn.line);
  };
  return { box: svg("svg", attributes, area, line), draw };
}

// --- parts of the panel: each is built once, and drawn again from each state ---

function memoryPart() {
  const curve = chart("am-memory");
  const levels = LEVELS.map(([name, word, field]) => {
    const [line, key] = [svg("line", { class: name, x1: 0, x2: 100 }), h("li", { class: name })];
    return { line, key, word, field };
  });
  curve.box.append(...levels.map(({ line }) => line));
  const [title, from, to, now] = [h("div"), h("span"), h("span"), h("li")];
  const axis = h("div", { class: "am-axis", "aria-hidden": "true" }, from, to);
  const keys = h("ul", { class: "am-key", "aria-label": "Memory" }, now, ...levels.map(({ key }) => key));
  const draw = (state, points) => {
    const [bottom, top] = scaleOf(points, state);
    curve.draw(points, bottom, top);
    say(title, bottom > 0 ? `Memory, from ${mebibytes(bottom)} up` : "Memory");
    const [first, last] = [points[0]?.[0], points.at(-1)?.[0]];
    say(from, first < last ? `step ${counted(first)}` : "");
    say(to, points.length ? `step ${counted(last)}` : "");
    say(now, `in use ${mebibytes(state.memory_bytes)}`);
    for (const each of levels) drawLevel(each, state[each.field], bottom, top);
  };
  return { node: h("div", {}, title, curve.box, axis, keys), draw };
}

function drawLevel({ line, key, word }, bytes, bottom, top) {
  const isDrawn = isNumber(bytes) && bytes <= top && bytes >= bottom;
  line.style.display = isDrawn ? "" : "none";
  const y = isDrawn ? 100 - (100 * (bytes - bottom)) / (top - bottom) : 0;
  line.setAttribute("y1", y);
  line.setAttribute("y2", y);
  key.hidden = !isNumber(bytes);
  say(key, `${word} ${mebibytes(bytes)}${bytes > top ? ", far above" : ""}`);
}

function footprintPart() {
  const part = (name) => ({ name, piece: h("span", { class: `am-${name}` }), key: h("li", { class: `am-${name}` }) });
  const parts = PARTS.map(part);
  const bar = h("div", { class: "am-bar", "aria-hidden": "true" }, ...parts.map(({ piece }) => piece));
  const keys = h("ul", { class: "am-key", "aria-label": "What memory is used for" }, ...parts.map(({ key }) => key));
  const node = h("div", {}, bar, keys);
  const draw = ({ footprint }) => {
    node.hidden = !footprint;
    for (const { name, piece, key } of parts) {
      const bytes = footprint?.[name] ?? 0;
      piece.style.flexGrow = bytes;
      piece.hidden = bytes <= 0;
      say(key, `${name.replace("_", " ")} ${smallMebibytes(bytes)}`);
    }
  };
  return { node, draw };
}

function stripPart() {
  const [label, rescued] = [h("div"), h("div", { class: "am-quiet" })];
  const strip = h("div", { class: "am-strip", "aria-hidden": "true" });
  const draw = (state) => {
    const { micro_batch: running, micro_batches: all, rescues } = state;
    const how = isNumber(state.n) || !state.how ? "" : ` (${state.how})`; // an N stands in the input
    say(label, all ? `Micro-batch ${counted(running)} of ${counted(all)}${how}` : `Micro-batches${how}`);
    say(rescued, rescues ? `${counted(rescues)} ran out of memory and ran again in smaller pieces` : "");
    drawStrip(strip, state);
  };
  return { node: h("div", {}, label, strip, rescued), draw };
}

/** A cell for each micro-batch, as wide as it has samples; one bar where there are too many to tell apart. */
function drawStrip(strip, { sizes, micro_batch: running, micro_batches: all, done, state }) {
  const isCells = Array.isArray(sizes) && sizes.length > 0 && sizes.length <= MOST_CELLS;
  const widths = isCells ? sizes : [1];
  while (strip.childElementCount > widths.length) strip.lastChild.remove();
  while (strip.childElementCount < widths.length) strip.append(h("span", {}, h("span")));
  const full = done ? all : Math.max(0, running - 1);
  [...strip.children].forEach((cell, i) => {
    const filled = isCells ? Number(i < full) : all ? full / all : 0;
    cell.style.flexGrow = widths[i];
    cell.firstChild.style.width = `${100 * filled}%`;
    cell.className = isCells && i === full && running > 0 && state !== "ended" ? "am-runs" : "";
  });
}

function countersPart() {
  const loss = chart("am-loss");
  const rows = ["Step", "Optimizer steps", "Scheduler steps", "Samples", "Loss", "Speed", "Time"].map((name) => {
    const value = h("span");
    const curve = name === "Loss" ? [loss.box] : [];
    return { name, value, row: h("div", {}, h("dt", {}, name), h("dd", {}, value, ...curve)) };
  });
  const draw = (state, points) => {
    const texts = counters(state);
    for (const { name, value, row } of rows) {
      row.hidden = texts[name] === null;
      say(value, texts[name] ?? "");
    }
    const losses = points.map(([, value]) => value);
    loss.box.style.display = points.length > 1 ? "" : "none";
    loss.draw(points, Math.min(...losses), Math.max(...losses));
  };
  return { node: h("dl", { class: "am-counters" }, ...rows.map(({ row }) => row)), draw };
}

function counters(state) {
  const left = isNumber(state.remaining_s) && state.state !== "ended" ? ` · ${clock(state.remaining_s)} left` : "";
  return {
    Step: counted(state.step) + (isNumber(state.total_steps) ? ` of ${counted(state.total_steps)}` : ""),
    "Optimizer steps": counted(state.optimizer_steps),
    "Scheduler steps": state.scheduler_steps ? counted(state.scheduler_steps) : null,
    Samples: counted(state.samples),
    Loss: isNumber(state.loss) ? fourDigits(state.loss) : (state.loss_text ?? "–"),
    Speed: isNumber(state.samples_per_s) ? `${counted(state.samples_per_s)} samples/s` : "–",
    Time: (isNumber(state.elapsed_s) ? clock(state.elapsed_s) : "–") + left,
  };
}

function verdictPart() {
  const [badge, reasons, notes] = [h("span", { class: "am-badge" }), h("ul", { class: "am-reasons" }), h("ul")];
  reasons.setAttribute("aria-label", "Why approximate");
  const summary = h("summary");
  const details = h("details", {}, summary, notes);
  const draw = (state) => {
    badge.dataset.verdict = state.verdict ?? "";
    say(badge, state.verdict ?? "not measured yet");
    list(reasons, state.reasons ?? []);
    list(notes, state.notes ?? []);
    reasons.hidden = !state.reasons?.length;
    details.hidden = !state.notes?.length;
    say(summary, `Notes (${state.notes?.length ?? 0})`);
  };
  return { badge, node: h("div", {}, reasons, details), draw };
}

function list(node, texts) {
  const isShown = ({ textContent }, i) => textContent === texts[i];
  if (node.childElementCount === texts.length && [...node.children].every(isShown)) return;
  node.replaceChildren(...texts.map((text) => h("li", {}, String(text))));
}

/** The user's lines; those with the same mark behind one another stand in a group that is marked once. */
function linesPart() {
  const body = h("div", { class: "am-lines" });
  const node = h("details", {}, h("summary", {}, "What runs when"), body);
  const draw = (lines) => {
    node.hidden = !lines.length;
    body.replaceChildren();
    let group = null;
    for (const [number, mark, text] of lines) {
      if (number === null) {
        body.append(h("div", { class: "am-title" }, text));
        group = null;
        continue;
      }
      if (group?.dataset.mark !== mark) {
        group = h("div", { class: "am-group", "data-mark": mark }, h("div", { class: "am-mark" }, mark), h("div"));
        body.append(group);
      }
      const label = h("span", { class: "am-number" }, String(number));
      group.lastChild.append(h("div", { class: "am-code" }, label, h("code", {}, text)));
    }
  };
  return { node, draw };
}

// --- controls ---

function controlsPart(ask, page) {
  const hint = h("div", { class: "am-quiet am-hint", id: `accum-magic-${page}` });
  const hinted = { "aria-describedby": hint.id };
  const pause = h("button", { type: "button", ...hinted }, "Pause"); // also Resume, which so keeps the focus
  const stop = h("button", { type: "button", title: "Stop after this update" }, "Stop");
  const n = h("input", { type: "number", min: 1, max: MOST_MICRO_BATCHES, step: 1, ...hinted });
  const typed = { timer: 0, shown: "" };
  const commit = () => {
    clearTimeout(typed.timer);
    typed.timer = 0;
    if (n.value === typed.shown && !n.validity.badInput) return;
    typed.shown = n.value;
    ask("n", n.valueAsNumber);
  };
  pause.addEventListener("click", () => ask(pause.textContent.toLowerCase()));
  stop.addEventListener("click", () => ask("stop"));
  n.addEventListener("keydown", (event) => event.key === "Enter" && commit());
  n.addEventListener("change", () => {
    clearTimeout(typed.timer);
    typed.timer = n.value === typed.shown ? 0 : setTimeout(commit, TYPING_MS); // Enter has sent it already
  });
  const node = h("div", { class: "am-controls" }, pause, stop, h("label", {}, "Micro-batches", n));
  const draw = (panel) => {
    drawControls(panel, { pause, stop, n });
    drawN(n, typed, panel);
    say(hint, hintOf(panel, modeOf(panel)));
  };
  return { node, hint, draw, close: () => clearTimeout(typed.timer) };
}

function drawControls(panel, { pause, stop, n }) {
  const mode = modeOf(panel);
  const [section, focused] = [pause.closest("section"), pause.getRootNode().activeElement];
  say(pause, mode === "paused" ? "Resume" : "Pause");
  pause.disabled = stop.disabled = panel.welcome === null || mode === "ended" || mode === "stopping";
  n.disabled = pause.disabled || Boolean(panel.welcome.locked);
  // else the keyboard starts again at the top of the page
  if ([pause, stop, n].some((control) => control === focused && control.disabled)) section.focus();
}

/** Show the N that was asked for, but not in the place of one that is being typed. */
function drawN(n, typed, { state, askedN }) {
  const isTyping = typed.timer || (n === n.getRootNode().activeElement && n.value !== typed.shown);
  const shown = askedN ?? state?.n;
  n.placeholder = state?.how === "auto" ? "auto" : "";
  if (!isTyping) n.value = typed.shown = isNumber(shown) ? String(shown) : "";
}

function hintOf({ welcome, asked, askedN, isUnheard }, mode) {
  if (mode === "ended" || mode === "stopping") return "";
  if (welcome === null) return isUnheard ? UNHEARD : "Waiting for the kernel";
  if (COMMANDS[asked]) return `${COMMANDS[asked]} …`;
  if (askedN !== null) return `${counted(askedN)} micro-batches from the next step on`;
  return [REACH[welcome.reach], welcome.locked].filter(Boolean).join(". ");
}

/** What the run does, as the page knows it: a stop that was asked for counts at once. */
function modeOf({ state, asked, isOver }) {
  if (isOver || state?.state === "ended") return "ended";
  if (asked === "stop" || state?.state === "stopping") return "stopping";
  return state?.state ?? "starting";
}

function statusOf(panel, mode) {
  if (panel.isOver) return OVER;
  const ends = { finished: "Finished", stopped: "Stopped", failed: "Failed" };
  const words = { starting: "Starting", running: "Running", paused: "Paused", stopping: "Stopping after this update" };
  return mode === "ended" ? (ends[panel.state.outcome] ?? "Ended") : words[mode];
}

// --- the check, behind the run ---

/** Goes on to hear what the kernel says when its view is gone. */
function checkPart(ask) {
  const button = h("button", { type: "button", title: "Run one step at once and in micro-batches" }, "Check exactness");
  const [told, found] = [h("span", { class: "am-quiet", role: "status" }), h("pre", { tabindex: 0 })];
  const node = h("div", { class: "am-check" }, button, told, found);
  let run = null;
  const show = (text, result) => {
    button.disabled = text === "Checking …";
    say(told, text);
    say(found, result);
    found.hidden = !result;
  };
  const offer = (to) => {
    if (to !== run) show("", "");
    run = to;
    node.hidden = run === null;
  };
  const hear = ({ kind, run: of, text }) => kind === "checked" && of === run && show("Nothing was trained", String(text));
  button.addEventListener("click", () => {
    show("Checking …", "");
    ask("check");
  });
  offer(null);
  return { node, hear, offer };
}

/** Keep a node beside the result that takes the panel's place in JupyterLab's output area, until that goes, too. */
function leaveBehind(el, node) {
  const [area, child] = [el.closest(".jp-OutputArea"), el.closest(".jp-OutputArea-child")];
  if (!area || !child) return;
  const index = [...area.children].indexOf(child);
  const host = h("div", { class: "accum-magic am-after", role: "group", "aria-label": "Check exactness" });
  let result = null;
  const observer = new MutationObserver(() => {
    if (child.isConnected) return;
    if (result === null && area.children[index]) {
      result = area.children[index];
      const output = result.querySelector(".jp-OutputArea-output") ?? result;
      host.style.marginLeft = `${output.getBoundingClientRect().left - area.getBoundingClientRect().left}px`;
      host.append(node);
      result.after(host);
    } else if (result === null || !result.isConnected) {
      host.remove();
      observer.disconnect();
    }
  });
  observer.observe(area, { childList: true });
}

// --- the panel ---

function build(ask, page) {
  const [status, refused] = [h("div", { class: "am-state" }), h("div")];
  const parts = { memory: memoryPart(), footprint: footprintPart(), strip: stripPart(), counters: countersPart() };
  const [verdict, lines, controls] = [verdictPart(), linesPart(), controlsPart(ask, page)];
  const told = h("div", { role: "status" }, status, refused);
  const left = h("div", { class: "am-told" }, verdict.badge, told);
  const head = h("div", { class: "am-head" }, left, controls.node, controls.hint);
  const side = h("div", {}, parts.strip.node, parts.counters.node);
  const figures = h("div", { class: "am-figures" }, h("div", {}, parts.memory.node, parts.footprint.node), side);
  const attributes = { class: "accum-magic", role: "region", "aria-label": "accum_magic", tabindex: -1 };
  const check = checkPart(ask);
  const section = h("section", attributes, head, figures, verdict.node, check.node, lines.node);
  return { section, status, refused, figures, verdict, lines, controls, check, ...parts };
}

function draw(nodes, panel) {
  const { state, memory, loss } = panel;
  const mode = modeOf(panel);
  nodes.section.dataset.state = mode;
  say(nodes.status, statusOf(panel, mode));
  say(nodes.refused, panel.refused);
  nodes.controls.draw(panel);
  nodes.controls.node.hidden = mode === "ended";
  nodes.figures.hidden = nodes.verdict.badge.hidden = nodes.verdict.node.hidden = state === null;
  if (state === null) return;
  nodes.memory.draw(state, memory);
  nodes.footprint.draw(state);
  nodes.strip.draw(state);
  nodes.counters.draw(state, loss);
  nodes.verdict.draw(state);
}

/** Take in what a message tells; a panel shows one run, and only a welcome begins another. */
function take(panel, message, buffers) {
  if (message?.kind === "welcome") {
    if (panel.run !== message.run) Object.assign(panel, { memory: [], loss: [] });
    Object.assign(panel, { run: message.run, welcome: message, refused: "", asked: null, askedN: null });
  } else if (!["state", "ended", "refused"].includes(message?.kind)) return;
  else if (panel.run !== null && message.run !== panel.run) return;
  panel.isOver = false;
  if (message.kind === "refused") {
    Object.assign(panel, { refused: String(message.text), asked: null, askedN: null });
  } else if (message.state) {
    Object.assign(panel, { state: message.state }, curvesIn(buffers));
    const becomes = { pause: "paused", resume: "running", stop: "stopping" };
    if (message.state.state === becomes[panel.asked] || message.kind === "ended") panel.asked = null;
    if (message.state.n === panel.askedN) panel.askedN = null;
  }
}

/** Send a command; what it asks for is shown until a state or a refusal answers. */
function order(panel, model, command, value) {
  const isN = command === "n";
  if (isN && !(Number.isInteger(value) && value >= 1 && value <= MOST_MICRO_BATCHES)) {
    panel.refused = `N is a whole number from 1 to ${counted(MOST_MICRO_BATCHES)}.`;
    return;
  }
  const asked = command === "check" ? {} : { asked: command };
  Object.assign(panel, { refused: "" }, isN ? { askedN: value } : asked);
  model.send({ kind: "command", run: panel.run, command, ...(isN && { value }) });
}

/** JupyterLab's manager has no kernel where a notebook is opened without one: nobody will answer. */
function isWithoutKernel(model) {
  return model.widget_manager?.kernel === null;
}

/** The page's name is the same for all of its views, until it is loaded again. */
function sayHello(model) {
  model.send({ kind: "hello", page: String(performance.timeOrigin) });
}

/** Say hello while there is no view: on a slow page a text may have taken its place, which goes again then. */
function knock(model, { hearers, views }) {
  let hellos = 0;
  const stop = () => clearInterval(timer);
  const timer = setInterval(() => {
    if (++hellos > HELLOS) stop();
    else if (!views.size) sayHello(model);
  }, HELLO_EVERY_MS);
  hearers.add((message) => message.kind === "welcome" && stop());
}

/** Say hello every second until a welcome comes; `greet` begins anew. */
function greeting(panel, model, redraw) {
  let [hellos, timer] = [0, 0];
  const stop = () => clearInterval(timer);
  const hello = () => {
    panel.isOver = panel.state === null && (isWithoutKernel(model) || hellos >= HELLOS);
    if (panel.isOver || hellos >= HELLOS) stop();
    else sayHello(model);
    panel.isUnheard = ++hellos * HELLO_EVERY_MS > UNHEARD_AFTER_MS;
    redraw();
  };
  const greet = () => {
    if (panel.state?.state === "ended") return;
    stop();
    hellos = 0;
    timer = setInterval(hello, HELLO_EVERY_MS);
    hello();
  };
  return { greet, stop };
}

/** A view; `hearers` are told of messages also when it is gone. */
function render({ model, el }, { hearers, views }) {
  const view = crypto.getRandomValues(new Uint32Array(2)).join("-");
  const panel = { run: null, welcome: null, state: null, memory: [], loss: [], asked: null, askedN: null, refused: "" };
  let frame = 0; // none comes while the page is hidden
  const redraw = () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      draw(nodes, panel);
    });
  };
  const nodes = build((command, value) => {
    order(panel, model, command, value);
    redraw();
  }, view);
  const { greet, stop } = greeting(panel, model, redraw);
  const greetAgain = () => document.hidden || greet();
  const receive = (message, buffers) => {
    take(panel, message, buffers);
    if (message?.kind === "welcome") {
      stop();
      nodes.lines.draw(message.lines ?? []);
    }
    const isOffered = message?.check && message.run === panel.run && panel.state?.state === "ended";
    if (isOffered && nodes.check.node.hidden) leaveBehind(el, nodes.check.node);
    if (isOffered || message?.kind === "welcome") nodes.check.offer(isOffered ? message.run : null);
    redraw();
  };
  hearers.add(nodes.check.hear);
  views.add(el);
  model.on("msg:custom", receive);
  document.addEventListener("visibilitychange", greetAgain);
  window.addEventListener("online", greetAgain);
  nodes.lines.draw([]);
  draw(nodes, panel);
  el.append(nodes.section);
  greet();
  return () => {
    views.delete(el);
    model.off("msg:custom", receive);
    document.removeEventListener("visibilitychange", greetAgain);
    window.removeEventListener("online", greetAgain);
    stop();
    cancelAnimationFrame(frame);
    nodes.controls.close();
  };
}

/** Called for each widget: what its views have in common. */
export default () => {
  const shared = { hearers: new Set(), views: new Set() };
  const initialize = ({ model }) => {
    model.on("msg:custom", (message) => shared.hearers.forEach((hear) => hear(message ?? {})));
    if (!isWithoutKernel(model)) knock(model, shared);
  };
  return { initialize, render: (given) => render(given, shared) };
};
