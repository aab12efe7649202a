// The gallery: order, choice, pages by hash, keys, theme.

const CHUNK = 24;
const $ = id => document.getElementById(id);
const byId = new Map(items.map(item => [item.id, item]));
const report = $("report"), photo = $("photo"), sheet = $("sheet");
let order = items, shown = 0, place = null, open = null, page = null;
// The hash that is shown; whether the report was in sight before; whether a link leads to a section.
let handled = null, arrived = false, jump = false;

const texts = new Map();
function textFor(item) {
  if (!texts.has(item.n)) {
    const text = pieces => pieces.map(([words]) => words).join("");
    const phrases = regions => regions.map(region => region.phrase);
    const words = [item.id, item.category, item.generator, text(item.reference),
      ...phrases(item.truth), ...item.truth.flatMap(region => [region.detail, region.kind]),
      item.question, ...(item.problems || []), ...(item.facts || []).flat(), ...item.answers.flatMap(answer =>
        [text(answer.explanation), ...phrases(answer.regions)])];
    texts.set(item.n, words.join("\n").toLowerCase());
  }
  return texts.get(item.n);
}

// Numbers, texts or lists of numbers; null comes last in either direction.
function compare(a, b) {
  if (Array.isArray(a)) return a.reduce((result, value, k) => result || value - b[k], 0);
  return typeof a === "string" ? (a < b ? -1 : a > b ? 1 : 0) : a - b;
}
function sorted(list, {key, down}) {
  const known = list.filter(item => item.keys[key] !== null && item.keys[key] !== undefined);
  const rest = list.filter(item => item.keys[key] === null || item.keys[key] === undefined);
  known.sort((x, y) => (down ? -1 : 1) * compare(x.keys[key], y.keys[key]) || x.n - y.n);
  return [...known, ...rest];
}

const watch = new IntersectionObserver(entries => entries.forEach(entry =>
  entry.isIntersecting ? draw(entry.target) : forget(entry.target)), {rootMargin: "600px"});
const sentinel = new IntersectionObserver(entries =>
  entries.some(entry => entry.isIntersecting) && more(), {rootMargin: "900px"});

function more() {
  const next = order.slice(shown, shown + CHUNK).map(card);
  sheet.append(...next);
  next.forEach(article => watch.observe(article.stages));
  shown += next.length;
  $("more").hidden = shown >= order.length;
  sentinel.unobserve($("more"));  // tells again when it is still in sight
  if (shown < order.length) sentinel.observe($("more"));
}

function choose() {
  const pressed = [...$("marks").querySelectorAll('[aria-pressed="true"]')];
  const wanted = pressed.map(button => button.dataset.mark);
  const words = $("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const category = $("category").value, label = $("label").value;
  order = sorted(items.filter(item => (!category || item.category === category.slice(1))
    && (!label || item.label === label) && wanted.every(mark => item.marks.includes(mark))
    && words.every(word => textFor(item).includes(word))), config.sorts[$("sort").selectedIndex]);
  watch.disconnect();
  [...sheet.children].forEach(article => forget(article.stages));
  sheet.replaceChildren();
  shown = 0;
  more();
  $("left").value = `${order.length} of ${items.length} shown`;
}

function options(select, first, values, prefix = "") {
  select.append(make("option", {value: ""}, first),
    ...values.map(value => make("option", {value: prefix + value}, value || "not told")));
  select.parentElement.hidden = values.length < 2;
}

function setUp() {
  $("sort").append(...config.sorts.map(({words}) => make("option", {}, words)));
  options($("category"), "all", [...new Set(items.map(item => item.category))].sort(), "=");
  options($("label"), "all", [...new Set(items.map(item => item.label))].sort());
  for (const [mark, words] of Object.entries(config.marks)) {
    const number = items.filter(item => item.marks.includes(mark)).length;
    if (!number) continue;
    const button = make("button", {type: "button", "data-mark": mark, "aria-pressed": "false"},
      `${words} (${number})`);
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
      choose();
    });
    $("marks").append(button);
  }
  ["sort", "category", "label"].forEach(id => $(id).addEventListener("change", choose));
  $("words").addEventListener("input", choose);
  $("more").addEventListener("click", more);
  $("masks").addEventListener("change", () =>
    document.body.classList.toggle("bare", !$("masks").checked));
  window.addEventListener("beforeprint", () =>
    (open ? [page] : [...sheet.children].map(article => article.stages)).forEach(draw));
}

function neighbour(step) {
  const at = order.indexOf(open);
  return at < 0 ? null : order[at + step] || null;
}

function link(words, item, name) {
  const common = {class: "button", "aria-label": name};
  return item ? make("a", {...common, href: route(item)}, words)
    : make("button", {...common, type: "button", disabled: ""}, words);
}

function showPhoto(item) {
  if (!open) place = arrived ? window.scrollY : null;
  if (page) forget(page);
  open = item;
  const {heading, stages, body} = photoPage(item), at = order.indexOf(item);
  const where = at < 0 ? "not among those chosen" : `${at + 1} of ${order.length}`;
  photo.replaceChildren(make("header", {},
    make("a", {class: "button", href: "#gallery"}, "← All photos"),
    link("‹ Previous", neighbour(-1), "previous photo"),
    link("Next ›", neighbour(1), "next photo"), make("span", {class: "place"}, where)), ...body);
  page = stages;
  report.hidden = true;
  photo.hidden = false;
  draw(stages);
  document.title = `${item.id} – ${baseTitle}`;
  window.scrollTo({top: 0, behavior: "instant"});
  heading.focus({preventScroll: true});
}

function showReport() {
  const last = open;
  if (page) forget(page);
  open = page = null;
  photo.hidden = true;
  photo.replaceChildren();
  report.hidden = false;
  document.title = baseTitle;
  if (!last || place === null) return;
  window.scrollTo({top: place, behavior: "instant"});
  sheet.querySelector(`[data-n="${last.n}"] h3 a`)?.focus({preventScroll: true});
}

function notFound(name) {
  showReport();
  $("left").value = `no photo ${name} on this page`;
}

function go() {
  const hash = location.hash;
  if (hash === handled) return;
  handled = hash;
  if (!hash.startsWith("#/photo/")) {
    const returning = open !== null && place !== null && !jump;
    showReport();
    if (!returning && hash.length > 1) $(hash.slice(1))?.scrollIntoView({behavior: "instant"});
    jump = false;
    return;
  }
  let name = hash.slice("#/photo/".length);
  try { name = decodeURIComponent(name); } catch (error) { /* typed by hand: looked up as it is */ }
  byId.has(name) ? showPhoto(byId.get(name)) : notFound(name);
}

// At once: the next key may come before the browser tells that the hash has changed.
function visit(hash) {
  location.hash = hash;
  go();
}

const baseTitle = document.title;
window.addEventListener("hashchange", go);
document.addEventListener("keydown", event => {
  const typing = event.target.closest?.("input, select, textarea, [popover]:popover-open");
  if (!open || typing || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  if (step && neighbour(step)) visit(route(neighbour(step)));
  else if (event.key === "Escape") visit("#gallery");
});

const dark = matchMedia("(prefers-color-scheme: dark)"), theme = $("theme");
function themeNow() {
  return document.documentElement.dataset.theme || (dark.matches ? "dark" : "light");
}
function showTheme() {
  const other = themeNow() === "dark" ? "light" : "dark";
  theme.textContent = other === "dark" ? "☾ Dark" : "☀ Light";
  theme.setAttribute("aria-label", `switch to ${other} colours`);
}
theme.addEventListener("click", () => {
  const next = themeNow() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  try { localStorage.setItem("theme", next); } catch (error) { /* chosen for this visit only */ }
  showTheme();
});
dark.addEventListener("change", showTheme);

setUp();
showTheme();
history.scrollRestoration = "manual";
// Pictures stand below this script, so cards are drawn once all of them are there.
document.addEventListener("DOMContentLoaded", () => { choose(); go(); arrived = true; });
document.querySelector("nav").addEventListener("click", () => { jump = true; });
