// The page of one photo: everything its row holds.

function regionList(regions, figure, none) {
  const list = regions.map((region, number) => {
    const facts = [region.rle ? `${percent(area(region.rle))} of the photo` : "no mask"];
    if (region.kind) facts.unshift(region.kind);
    if (typeof region.score === "number") facts.push(`score ${score(region.score)}`);
    const entry = make("li", {style: `--tone:${tone(number)}`},
      make("span", {class: "swatch"}, String(number + 1)),
      make("div", {dir: "auto"}, make("b", {}, region.phrase || "(no phrase)"),
        region.detail ? make("div", {}, region.detail) : null,
        make("small", {}, facts.join(", "))));
    if (region.rle) lights(entry, number, figure);
    return entry;
  });
  return list.length ? make("ul", {class: "regions"}, list) : make("p", {class: "soft"}, none);
}

function factsOf(pairs) {
  return make("dl", {class: "row"}, pairs.flatMap(([name, value]) => [make("dt", {}, name),
    make("dd", {}, value === null || value === undefined || value === "" ? DASH : String(value))]));
}

function answerFacts(answer) {
  const counts = answer.counts || [null, null, null, null];
  return factsOf([
    ...(answer.failed ? [["could not be read", answer.failed]] : []),
    ["verdict", answer.verdict], ["right", yes(answer.right)],
    ["its probability", score(answer.probability)],
    ["fake probability", score(answer.fake_probability)], ["words say", answer.words],
    ["words agree with the verdict", yes(answer.words_agree)],
    ["answer finished", yes(answer.finished)], ["F1", score(answer.f1)],
    ["mIoU", score(answer.miou)], ["IoU of artifacts", score(answer.fg_iou)],
    ["IoU of the rest", score(answer.bg_iou)], ["ROUGE-L", score(answer.rouge_l)],
    ["CSS", score(answer.css)],
    ...["right", "too many", "missed", "rightly left"].map((name, k) =>
      [`pixels ${name}`, counts[k] === null ? null : counts[k].toLocaleString("en")]),
    ["artifacts marked by people", answer.num_regions], ["masks", answer.num_masks]]);
}

function panel(title, ...children) {
  return make("section", {class: "panel", "aria-label": title}, make("h3", {}, title), children.flat());
}

function photoPage(item) {
  const stages = stagesOf(item), figures = [...stages.children];
  const truth = panel(item.answers.length ? config.truth : "Record", factsOf([["label", item.label], ["category", item.category],
    ["generator", item.generator], ["size", item.size && `${item.size[1]} × ${item.size[0]}`],
    ...(item.facts || [])]),
    item.question ? [make("h4", {}, "Question"), make("p", {dir: "auto"}, item.question)] : null,
    make("h4", {}, config.reference),
    make("div", {class: "texts"}, textOf(item.reference, truthMasks(item), figures[1], "(none)")),
    make("h4", {}, "Artifacts"), regionList(item.truth, figures[1], item.union
      ? `marked all together, ${percent(area(item.union))} of the photo` : truthWords(item)));
  const answers = item.answers.map((answer, k) => panel(answer.title, make("h4", {}, "Explanation"),
    make("div", {class: "texts"},
      textOf(answer.explanation, answerMasks(answer), figures[2 + k], "(it said nothing)")),
    make("h4", {}, "Artifacts named"), regionList(answer.regions, figures[2 + k], "(none)"),
    make("details", {}, make("summary", {}, "The answer as decoded"),
      make("pre", {dir: "auto"}, answer.answer || DASH))));
  const facts = item.answers.map(answer => panel(
    item.answers.length > 1 ? `Numbers of ${answer.title}` : "Numbers", answerFacts(answer)));
  const heading = make("h1", {tabindex: "-1"}, make("bdi", {}, item.id));
  return {heading, stages, body: [heading, badges(item), stages,
    make("div", {class: "grid"}, answers, truth, facts)]};
}
