"use strict";

(() => {
  const $ = (selector) => document.querySelector(selector);
  const { models, colours, generations } = JSON.parse($("#data").textContent);
  const inputs = [...document.querySelectorAll("[data-kind]")];
  const slices = new Slices($("#slices"));
  let viewer = null;
  let shown = null;
  let turn = 0;

  try {
    viewer = new Viewer($("#view"), pick);
  } catch {
    $("#view").hidden = true;
    $("#legend").textContent = "This browser draws nothing in 3-D (WebGL is off); list, table and planes work.";
  }

  /** The ways to colour the tree: what was found by each model, how two differ, generations. */
  const ways = [
    ...(models.length === 2 ? [{ name: "difference of the models", paint: paintDifference }] : []),
    ...models.map((model, k) => ({ name: models.length > 1 ? `found by ${model}` : "found or missed", paint: () => paintFound(k) })),
    { name: "generation", paint: paintGenerations },
    ...(models.length ? [] : [{ name: "diameter", paint: paintDiameters }, { name: "branch", paint: paintBranches }]),
  ];
  ways.forEach(({ name }, k) => $("#colour").add(new Option(name, k)));

  function legendEntry([colour, text]) {
    const [entry, swatch] = [document.createElement("span"), document.createElement("i")];
    swatch.style.background = colour;
    entry.append(swatch, text);
    return entry;
  }

  function legend(element, entries) {
    element.replaceChildren(...entries.map(legendEntry));
  }

  function isShown(kind) {
    return inputs.find((input) => input.dataset.kind === kind)?.checked ?? true;
  }

  /** Draw the reference: the colour of each vertex, and which triangles, by how many of their corners were found. */
  function paintReference(colourOf, found) {
    const { mesh, branch } = shown.reference;
    const picked = shown.branch;
    const named = Array.from(branch, (number, k) => (number === picked ? colours.picked : colourOf(k)));
    const triangles = mesh.triangles.filter((_, k) => {
      const first = k - (k % 3);
      const corners = found(mesh.triangles[first]) + found(mesh.triangles[first + 1]) + found(mesh.triangles[first + 2]);
      return isShown(corners >= 2 ? "found" : "missed");
    });
    viewer.paint(0, named, triangles);
  }

  /** Draw what each chosen model has predicted far from the reference. */
  function paintFalse(colourOf) {
    shown.predictions.forEach(({ mesh, far }, k) => {
      const colour = isShown("false") && colourOf(k);
      const triangles = mesh.triangles.filter((_, place) => {
        const first = place - (place % 3);
        return colour && far[mesh.triangles[first]] + far[mesh.triangles[first + 1]] + far[mesh.triangles[first + 2]] >= 2;
      });
      viewer.paint(k + 1, new Array(far.length).fill(colour || colours.false), triangles);
    });
  }

  function paintFound(model) {
    const found = shown.reference.found[model];
    paintReference((k) => (found[k] ? colours.found : colours.missed), (k) => found[k]);
    paintFalse((k) => k === model && colours.false);
    legend($("#legend"), [[colours.found, "found"], [colours.missed, "missed"], [colours.false, "false"]]);
  }

  function paintDifference() {
    const [first, second] = shown.reference.found;
    const name = (k) => (first[k] ? (second[k] ? colours.found : colours.models[0]) : second[k] ? colours.models[1] : colours.missed);
    paintReference(name, (k) => first[k] | second[k]);
    paintFalse((k) => colours.models[k]);
    legend($("#legend"), [
      [colours.found, "found by both"],
      ...models.map((model, k) => [colours.models[k], `found or false by ${model} only`]),
      [colours.missed, "missed by both"],
    ]);
  }

  function paintGenerations() {
    const found = (k) => !models.length || shown.reference.found.some((each) => each[k]);
    const of = new Map(shown.branches.map((branch) => [branch.number, branch.generation]));
    const name = (k) => generations[Math.min(of.get(shown.reference.branch[k]), generations.length - 1)];
    paintReference(name, found);
    paintFalse(() => colours.false);
    const most = Math.max(...of.values(), 0);
    legend($("#legend"), generations.slice(0, most + 1).map((colour, k) => [colour, `${k}`]));
    $("#legend").prepend("generation");
  }

  /** Widest airways have the first colour, as the trachea has among generations; a step is the same factor. */
  function paintDiameters() {
    const widest = 16;
    const place = (diameter) => Math.round((generations.length - 1) * Math.min(Math.max(Math.log2(widest / diameter) / 4, 0), 1));
    const of = new Map(shown.branches.map((branch) => [branch.number, generations[place(branch.diameter)]]));
    paintReference((k) => of.get(shown.reference.branch[k]), () => 1);
    legend($("#legend"), [16, 8, 4, 2, 1].map((diameter) => [generations[place(diameter)], `${diameter} mm`]));
    $("#legend").prepend("diameter");
  }

  /** Neighbouring numbers get colours far from each other. */
  function paintBranches() {
    paintReference((k) => `hsl(${Math.round((shown.reference.branch[k] * 137.5) % 360)}, 60%, ${45 + 10 * (shown.reference.branch[k] % 3)}%)`, () => 1);
    legend($("#legend"), []);
  }

  function paint() {
    if (!shown || !viewer) return;
    ways[$("#colour").value].paint();
    if (shown.branch) $("#legend").append(legendEntry([colours.picked, "chosen branch"]));
  }

  /** Say which branch is picked, in the list, in words, in the tree and in the planes. */
  function choose(number, centre) {
    shown.branch = number;
    $("#branch").value = number || "";
    const branch = shown.branches[number - 1];
    if (!branch) {
      $("#facts").replaceChildren();
      paint();
      return;
    }
    if (branch.facts) facts(branch.facts);
    else factsOf(branch);
    const middle = shown.middles[number - 1];
    if (slices.ct) slices.go(middle);
    if (centre && viewer?.isNear()) viewer.centre(middle);
    paint();
  }

  function factsOf(branch) {
    const detected = (k) => `${branch.found[k].toFixed(0)} %, ${branch.detected[k] ? "detected" : "missed"}`;
    facts([
      ["branch", branch.number],
      ["generation", branch.generation],
      ["parent", branch.parent || "none"],
      ["length", `${branch.length.toFixed(1)} mm`],
      ["diameter", `${branch.diameter.toFixed(1)} mm`],
      ...models.map((model, k) => [models.length > 1 ? `found by ${model}` : "found", detected(k)]),
    ]);
  }

  function facts(rows) {
    const list = document.createElement("dl");
    for (const [name, value] of rows) {
      const [term, words] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = name;
      words.textContent = value;
      list.append(term, words);
    }
    $("#facts").replaceChildren(list);
  }

  function pick(surface, vertex, place) {
    if (surface === 0) return choose(shown.reference.branch[vertex], false);
    choose(0, false);
    facts([["false", `predicted${models.length > 1 ? ` by ${models[surface - 1]}` : ""} outside the reference`]]);
    if (slices.ct) slices.go(place);
  }

  function nextMissed(step) {
    const missed = [...$("#branch").options].filter((option) => option.dataset.missed).map((option) => Number(option.value));
    if (!missed.length) return;
    const place = missed.indexOf(shown.branch);
    choose(missed[(place < 0 ? (step > 0 ? 0 : -1) : place + step + missed.length) % missed.length] ?? missed.at(-1), true);
  }

  function listBranches() {
    const least = (branch) => (models.length ? Math.min(...branch.found) : branch.generation);
    const order = [...shown.branches].sort((a, b) => least(a) - least(b) || b.length - a.length);
    const options = order.map((branch) => {
      const last = models.length ? branch.found.map((share) => `${share.toFixed(0)} %`).join(" and ") : `⌀ ${branch.diameter.toFixed(1)} mm`;
      const text = `${branch.number}: ${branch.length.toFixed(0)} mm, generation ${branch.generation}, ${last}`;
      const option = new Option(text, branch.number);
      if (branch.detected?.includes(false)) option.dataset.missed = "1";
      return option;
    });
    $("#branch").replaceChildren(new Option("choose one", ""), ...options);
  }

  /** Show a case; where another is chosen before its data are unpacked, the later one wins. */
  async function showCase(index) {
    const own = ++turn;
    $("#status").textContent = "Unpacking ...";
    try {
      await unpackCase(index, () => own === turn);
      if (own === turn) $("#status").textContent = "";
    } catch (error) {
      $("#status").textContent = `This browser cannot show the case (${error.message}): the page needs Chrome or Edge 92, Firefox 113, Safari 16.4 or later.`;
    }
  }

  async function unpackCase(index, isWanted) {
    const packed = JSON.parse($(`#scene-${index}`).textContent);
    const [mesh, branch, found, predictions, ct] = await Promise.all([
      unpackMesh(packed.reference),
      unpack(packed.reference.branch),
      Promise.all(packed.reference.found.map(unpack)),
      Promise.all(packed.predictions.map(async (each) => ({ mesh: await unpackMesh(each), far: await unpack(each.far) }))),
      packed.ct && unpackCT(packed.ct),
    ]);
    if (!isWanted()) return;
    shown = { reference: { mesh, branch, found }, predictions, branches: packed.branches, middles: packed.reference.middles, branch: 0 };
    viewer?.show([mesh, ...predictions.map((each) => each.mesh)]);
    $("#slices").hidden = !ct;
    slices.show(ct, [
      { mesh, colour: colours.outline[0], width: 2.5 }, // seen beside those that are drawn over it
      ...predictions.map((each, k) => ({ mesh: each.mesh, colour: colours.outline[k + 1], dash: k ? [6, 4] : [] })),
    ]);
    legend($("#outlines"), [[colours.outline[0], models.length ? "reference" : "airways"], ...models.map((model, k) => [colours.outline[k + 1], model])]);
    if (packed.drawings) $("#drawings").innerHTML = packed.drawings.join("");
    listBranches();
    choose(0, false);
    $("#case").value = index;
    for (const row of document.querySelectorAll("#table tbody tr")) row.classList.toggle("current", row.dataset.case === String(index));
    $("#view").setAttribute("aria-label", `Airway tree of ${packed.case}: ${packed.branches.length} branches`);
    history.replaceState(null, "", `#case=${encodeURIComponent(packed.case)}`);
  }

  function sort(head) {
    const heads = [...head.parentElement.children];
    const column = heads.indexOf(head);
    const rising = head.getAttribute("aria-sort") !== "ascending";
    for (const each of heads) each.setAttribute("aria-sort", each === head ? (rising ? "ascending" : "descending") : "none");
    const body = $("#table tbody");
    const value = (row) => row.children[column].dataset.value;
    const compare = (a, b) => {
      if (value(a) === "" || value(b) === "") return (value(a) === "") - (value(b) === ""); // what is not defined, last
      const order = column ? value(a) - value(b) : value(a).localeCompare(value(b), undefined, { numeric: true });
      return rising ? order : -order;
    };
    body.append(...[...body.children].sort(compare));
  }

  function fromAddress() {
    const name = location.hash.startsWith("#case=") && decodeURIComponent(location.hash.slice(6));
    const option = name && [...$("#case").options].find((each) => each.text === name);
    if (!option) return;
    showCase(option.value);
    $("#tree").scrollIntoView();
  }

  $("#case").addEventListener("change", (event) => showCase(event.target.value));
  $("#colour").addEventListener("change", paint);
  $("#branch").addEventListener("change", (event) => choose(Number(event.target.value), true));
  $("#next")?.addEventListener("click", () => nextMissed(1));
  $("#before")?.addEventListener("click", () => nextMissed(-1));
  inputs.forEach((input) => input.addEventListener("change", paint));
  $("#table thead").addEventListener("click", (event) => event.target.matches("button") && sort(event.target.closest("th")));
  $("#table tbody").addEventListener("click", (event) => {
    if (!event.target.matches("button")) return;
    showCase(event.target.closest("tr").dataset.case);
    $("#tree").scrollIntoView();
  });
  addEventListener("hashchange", fromAddress);
  showCase(0);
  fromAddress();
})();
