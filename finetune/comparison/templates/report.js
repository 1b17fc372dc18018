"use strict";
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// Light and dark: the system's choice until the button is pressed.
const theme = document.getElementById("theme");
theme.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

// Tables sort by their headings, within each body.
for (const table of all("table.sortable")) {
  const headings = all("thead tr:last-child th", table);
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") !== "descending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === ""); // what is not known comes last either way
        const order = isNaN(x) || isNaN(y) ? y.localeCompare(x) : y - x;
        return down ? order : -order;
      };
      for (const body of table.tBodies) {
        const rows = [...body.rows].filter((row) => !row.classList.contains("divider"));
        body.append(...rows.sort(compare));
      }
    });
  });
}

// The legend shows and hides models in all charts.
for (const button of all(".legend button")) {
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", on);
    for (const series of all(".series")) {
      if (series.dataset.model === button.dataset.model) series.classList.toggle("off", !on);
    }
  });
}

// Each image is in the page once; models' thumbnails borrow it when they come near the screen.
const fill = (image) => { image.src = document.getElementById(image.dataset.image).src; };
const near = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((one) => one.isIntersecting)) {
    all("img[data-image]:not([src])", entry.target).forEach(fill);
    near.unobserve(entry.target);
  }
}, { rootMargin: "600px" });
const cases = all(".case");
cases.forEach((one) => near.observe(one));
addEventListener("beforeprint", () => all("img[data-image]:not([src])").forEach(fill));

// Filters: a case stays if a judged answer of the chosen model (or of any) fits.
const filters = document.getElementById("filters");
const list = document.getElementById("cases");
function fits(answer, model, kind) {
  if (model && answer.dataset.model !== model) return false;
  if (!kind) return true;
  if (answer.dataset.judged !== "yes") return false;
  const kinds = answer.dataset.kinds ? answer.dataset.kinds.split("|") : [];
  if (kind === "none") return kinds.length === 0;
  return kind === "any" ? kinds.length > 0 : kinds.includes(kind);
}
function badness(one, model) {
  const source = model ? all(".thumb[data-model]", one).find((answer) => answer.dataset.model === model) : one;
  return Number(source.dataset.bad);
}
function apply() {
  const wanted = Object.fromEntries(new FormData(filters));
  let shown = 0;
  for (const one of cases) {
    const answers = all(".thumb[data-model]", one);
    const right = answers.map((answer) => fits(answer, wanted.model, wanted.kind));
    const keep = (!wanted.class || one.dataset.class === wanted.class) && right.some(Boolean);
    one.hidden = !keep;
    shown += keep;
    answers.forEach((answer, index) => answer.classList.toggle("dim", Boolean(wanted.model || wanted.kind) && !right[index]));
  }
  const sign = wanted.order === "best" ? -1 : 1;
  const order = wanted.order === "name"
    ? (a, b) => a.dataset.name.localeCompare(b.dataset.name)
    : (a, b) => sign * (badness(b, wanted.model) - badness(a, wanted.model));
  list.append(...cases.sort(order));
  for (const layer of ["truth", "found", "heat"]) {
    list.classList.toggle(`hide-${layer}`, !filters.elements[`show-${layer}`].checked);
  }
  document.getElementById("count").textContent = `${shown} of ${cases.length} images`;
  document.getElementById("empty").hidden = shown > 0;
}
filters.addEventListener("change", apply);
filters.addEventListener("submit", (event) => event.preventDefault());
apply();

// The viewer: one thumbnail large; arrows walk through models and images.
const viewer = document.getElementById("viewer");
let current = null;
function show(thumb) {
  current = thumb;
  const one = thumb.closest(".case");
  all("img[data-image]:not([src])", one).forEach(fill);
  const frame = thumb.querySelector(".frame").cloneNode(true);
  all("img", frame).forEach((image) => image.removeAttribute("id"));
  const [width, height] = frame.style.aspectRatio.split("/").map(Number);
  viewer.style.setProperty("--ratio", width / height);
  viewer.querySelector(".stage").replaceChildren(frame);
  const answer = thumb.querySelector("figcaption");
  const parts = [one.querySelector("h3").textContent, ...[...answer.children].map((child) => child.textContent)];
  viewer.querySelector(".caption").textContent = parts.map((text) => text.replace(/\s+/g, " ").trim()).filter(Boolean).join(" · ");
  if (!viewer.open) viewer.showModal();
}
list.addEventListener("click", (event) => {
  const thumb = event.target.closest(".thumb");
  if (thumb) show(thumb);
});
viewer.addEventListener("close", () => current?.querySelector("button").focus());
viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
viewer.addEventListener("keydown", (event) => {
  const one = current.closest(".case");
  const thumbs = all(".thumb", one);
  const column = thumbs.indexOf(current);
  const visible = all(".case:not([hidden])");
  const row = visible.indexOf(one);
  const next = {
    ArrowRight: () => thumbs[column + 1],
    ArrowLeft: () => thumbs[column - 1],
    ArrowDown: () => visible[row + 1] && all(".thumb", visible[row + 1])[column],
    ArrowUp: () => visible[row - 1] && all(".thumb", visible[row - 1])[column],
  }[event.key];
  if (!next) return;
  event.preventDefault();
  const thumb = next();
  if (thumb) show(thumb);
});
