// Cards of photos: pictures with masks, texts with phrases in the colours of their masks.

const config = JSON.parse(document.getElementById("config").textContent);
const items = JSON.parse(document.getElementById("items").textContent);
const DASH = "–";
const SMALL = 128;  // px, as in gallery.py; smaller photos show their pixels

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.flat().filter(child => child !== null && child !== undefined));
  return element;
}

const score = value => value === null || value === undefined ? DASH : value.toFixed(3);
const yes = value => value === null || value === undefined ? DASH : value ? "yes" : "no";
const tone = number => config.palette[number % config.palette.length];
function share(value) {
  if (value > 0 && value < 0.005) return "< 1 %";
  if (value >= 0.995 && value < 1) return "> 99 %";
  return `${Math.round(100 * value)} %`;
}
// Of areas: two digits that count.
function percent(value) {
  if (value > 0 && value < 1e-4) return "< 0.01 %";
  return value < 0.995 ? `${Number((100 * value).toPrecision(2))} %` : `${Math.round(100 * value)} %`;
}
const route = item => `#/photo/${encodeURIComponent(item.id)}`;

// The picture of an item as the address of a blob, which the caller gives back; null without one.
function pictureUrl(item) {
  const code = document.getElementById(`jpeg-${item.n}`)?.textContent;
  if (!code) return null;
  const bytes = Uint8Array.from(atob(code), letter => letter.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], {type: "image/jpeg"}));
}

// What is drawn on a picture: [{rle, number, tone}].
function truthMasks(item) {
  const masks = item.truth.map((region, number) => ({rle: region.rle, number, tone: tone(number)}));
  if (item.union) masks.push({rle: item.union, number: -1, tone: config.union});
  return masks.filter(mask => mask.rle);
}
const answerMasks = answer => answer.regions.map((region, number) =>
  ({rle: region.rle, number, tone: tone(number)})).filter(mask => mask.rle);

function truthWords(item) {
  if (item.state) return item.state;
  if (!item.marked && !truthMasks(item).length) return "nobody marked artifacts";
  const masks = truthMasks(item).length;
  if (!masks) return "no artifact";
  if (item.union) return "artifacts, all together";
  return `${masks} ${masks === 1 ? "artifact" : "artifacts"}`;
}
function answerWords(answer) {
  const masks = answerMasks(answer).length;
  const words = `${masks || "no"} ${masks === 1 ? "mask" : "masks"}`;
  return answer.f1 === null ? words : `${words}, F1 ${score(answer.f1)}`;
}

// A photo, with masks on it when there are any. `kind`: "plain", "truth", "said" or "heat".
function stage(item, kind, title, words, masks) {
  const [tall, wide] = item.size || [1, 1], drawn = masks.length ? `, ${title}: ${words}` : "";
  const small = item.size && Math.max(tall, wide) < SMALL;
  const photo = make("div", {class: small ? "photo pixelated" : "photo", style: `--ratio:${wide / tall}`},
    make("img", {alt: `Photo ${item.id}${drawn}`, decoding: "async"}));
  const figure = make("figure", {class: `stage ${kind}`}, photo,
    make("figcaption", {}, make("b", {}, title), words ? ` ${words}` : ""));
  figure.photo = photo;
  figure.masks = masks;
  figure.size = wide >= tall ? [CANVAS_SIDE, Math.max(1, Math.round(CANVAS_SIDE * tall / wide))]
    : [Math.max(1, Math.round(CANVAS_SIDE * wide / tall)), CANVAS_SIDE];
  return figure;
}

// The photo alone, with its true masks, and with those of each answer. A photo that has neither
// stands once.
function stagesOf(item) {
  const masks = truthMasks(item), plain = !masks.length && !item.answers.length;
  const figures = [stage(item, "plain", "Photo", plain ? truthWords(item) : "", [])];
  if (!plain) figures.push(stage(item, "truth", config.truth, truthWords(item), masks));
  figures.push(...item.answers.map(answer =>
    stage(item, "said", answer.title, answerWords(answer), answerMasks(answer))));
  if (item.heat) {
    figures.push(stage(item, "heat", "Heat map", item.heat.words, []));
    figures[figures.length - 1].source = `data:image/jpeg;base64,${item.heat.jpeg}`;
  }
  const box = make("div", {class: item.answers.length === 1 ? "stages one" : "stages",
    style: `--stages:${Math.max(2, figures.length)}`}, figures);
  box.item = item;
  return box;
}

// Draws the stages of a card when they come into sight, and gives the memory back when they leave.
function draw(box) {
  if (box.drawn) return;
  box.drawn = true;
  box.url = pictureUrl(box.item);
  for (const figure of box.children) {
    const source = figure.source || box.url;
    if (source) figure.querySelector("img").src = source;
    else {
      figure.querySelector("img").hidden = true;
      figure.photo.append(make("span", {class: "lost"}, "no picture"));
    }
    if (!figure.masks.length) continue;
    const [width, height] = figure.size;
    const canvas = make("canvas", {width, height, "aria-hidden": "true"});
    figure.drawn = figure.masks.map(mask => ({number: mask.number,
      tone: mask.tone.split(",").map(Number), raster: rasterise(mask.rle, width, height)}));
    paint(canvas, figure.drawn, null);
    figure.photo.append(canvas);
    const places = [];
    for (const {number, raster} of figure.drawn) {
      if (!raster || number < 0) continue;
      places.push(tagPlace(raster, width, height, places));
      const [x, y] = places[places.length - 1];
      figure.photo.append(make("b", {class: "tag", "aria-hidden": "true", "data-region": number,
        style: `--tone:${tone(number)};left:${x}%;top:${y}%`}, String(number + 1)));
    }
  }
}
function forget(box) {
  if (!box.drawn) return;
  box.drawn = false;
  if (box.url) URL.revokeObjectURL(box.url);
  for (const figure of box.children) {
    figure.querySelector("img").removeAttribute("src");
    figure.querySelectorAll("canvas, .tag, .lost").forEach(part => part.remove());
    figure.drawn = null;
  }
}

// Pieces [words, number or null] with phrases in the colour of their mask. `figure` lights up.
function textOf(pieces, masks, figure, none) {
  const known = new Set(masks.map(mask => mask.number));
  const parts = pieces.map(([words, number]) => {
    if (number === null) return words;
    const mark = make("mark", {style: `--tone:${tone(number)}`, "data-region": number},
      words, make("sup", {}, String(number + 1)));
    if (known.has(number)) lights(mark, number, figure);
    else mark.title = "no mask";
    return mark;
  });
  return make("p", {dir: "auto"}, parts.length ? parts : make("span", {class: "soft"}, none));
}

// Hovering, focusing or tapping `element` shows mask `number` of a figure alone.
function lights(element, number, figure) {
  element.tabIndex = 0;
  element.setAttribute("role", "button");
  const light = on => {
    element.classList.toggle("lit", on);
    if (!figure.drawn) return;
    paint(figure.querySelector("canvas"), figure.drawn, on ? number : null);
    for (const tag of figure.querySelectorAll(".tag")) {
      tag.hidden = on && tag.dataset.region !== String(number);
    }
  };
  element.addEventListener("pointerenter", () => light(true));
  element.addEventListener("pointerleave", () => light(document.activeElement === element));
  element.addEventListener("focus", () => light(true));
  element.addEventListener("blur", () => light(false));
}

function badges(item) {
  const list = [], add = (kind, words) => list.push(make("li", {class: kind}, words));
  add("", item.answers.length ? `truth: ${item.label}` : item.label);
  if (item.category) add("", item.category);
  for (const problem of item.problems || []) add("bad", `✗ ${problem}`);
  for (const answer of item.answers) {
    const who = item.answers.length > 1 ? `${answer.title}: ` : "";
    if (answer.verdict !== null) {
      const kind = answer.right === null ? "" : answer.right ? "good" : "bad";
      const sign = {good: "✓ ", bad: "✗ "}[kind] || "";
      const sure = answer.probability === null ? "" : ` ${share(answer.probability)}`;
      const lot = answer.drawn ? ", drawn" : "";
      add(kind, `${who}${sign}says ${answer.verdict}${sure}${lot}`);
    } else if (answer.unparsed) add("bad", `${who}✗ no verdict in the answer`);
    if (answer.words_agree === false) add("bad", `${who}✗ words say ${answer.words}`);
    if (answer.failed) add("bad", `${who}not readable`);
    else if (!answer.finished) add("bad", `${who}answer cut off`);
    add("", `${who}F1 ${score(answer.f1)}`);
    if (answer.rouge_l !== null) add("", `${who}ROUGE-L ${score(answer.rouge_l)}`);
  }
  return make("ul", {class: "badges"}, list);
}

function card(item) {
  const stages = stagesOf(item), figures = [...stages.children];
  const texts = item.answers.map((answer, k) => make("div", {},
    make("h4", {}, item.answers.length > 1 ? answer.title : "Explanation"),
    textOf(answer.explanation, answerMasks(answer), figures[2 + k], "(it said nothing)")));
  texts.push(make("div", {}, make("h4", {}, config.reference),
    textOf(item.reference, truthMasks(item), figures[1], "(none)")));
  if (!item.answers.length && item.truth.length) {
    texts.push(make("div", {}, make("h4", {}, config.truth),
      regionList(item.truth, figures[1], "(none)")));
  }
  const article = make("article", {class: "card", "data-n": item.n},
    make("header", {}, make("h3", {}, make("a", {href: route(item)}, make("bdi", {}, item.id))),
      badges(item)),
    stages, make("div", {class: "texts", style: `--texts:${texts.length}`}, texts));
  article.stages = stages;
  return article;
}
