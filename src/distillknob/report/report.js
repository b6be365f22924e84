// What a page can do beside being read: copy commands, sort tables, save plots and their values, unfold for print.
// Every page is whole without it. It reads what stands on the page, asks nothing of the network, and writes text only
// as text (`textContent`), so that what a model wrote can't become markup here either.
"use strict";

const button = (label, name, act) => {
  const one = document.createElement("button");
  one.type = "button";
  one.textContent = label;
  one.className = "tool";
  if (name) one.setAttribute("aria-label", name);
  one.addEventListener("click", act);
  return one;
};

// Commands

const copy = async (code) => {
  try {
    await navigator.clipboard.writeText(code.textContent);
    return true;
  } catch {
    // A browser that keeps its clipboard from pages of a file: copy as a reader would.
    const range = document.createRange();
    range.selectNodeContents(code);
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    return document.execCommand("copy");
  }
};

for (const code of document.querySelectorAll("code.command")) {
  const status = document.createElement("span");
  status.setAttribute("role", "status");
  status.className = "status";
  const act = async () => {
    status.textContent = (await copy(code)) ? "Copied" : "Select it and copy it by hand";
    setTimeout(() => (status.textContent = ""), 3000);
  };
  code.after(" ", button("Copy", "Copy the command", act), " ", status);
}

// Tables

const plain = (cell) => cell.textContent.replaceAll("\u2212", "-").replaceAll("\u202f", "").trim();

// Numbers before words, what is missing last, in both directions.
const order = (a, b, sign) => {
  const [first, second] = [plain(a), plain(b)];
  const [x, y] = [parseFloat(first), parseFloat(second)];
  const rank = (text, value) => (text === "" || text === "\u2013" ? 2 : Number.isNaN(value) ? 1 : 0);
  const [p, q] = [rank(first, x), rank(second, y)];
  if (p !== q) return p === 2 || q === 2 ? p - q : sign * (p - q);
  return p === 2 ? 0 : sign * (p === 0 ? x - y : first.localeCompare(second));
};

const sort = (table, head) => {
  const column = [...head.parentElement.children].indexOf(head);
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort((a, b) => order(a.cells[column], b.cells[column], sign)));
};

for (const table of document.querySelectorAll("table")) {
  if (table.tBodies[0].rows.length < 2) continue;
  for (const head of table.tHead.rows[0].cells) {
    if (!head.textContent) continue;
    const act = button("", null, () => sort(table, head));
    act.className = "sort";
    act.append(...head.childNodes);
    head.append(act);
  }
}

// Plots

const save = (name, type, text) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};

// A text that begins as a formula does would be one in a spreadsheet.
const field = (text) => {
  const safe = /^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
};

const values = (table) =>
  [...table.rows].map((row) => [...row.cells].map((cell) => field(cell.textContent)).join(",") + "\r\n").join("");

const PAINT = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin"];
const KEPT = [...PAINT, "opacity", "paint-order", "font-family", "font-size", "font-weight", "text-anchor"];

// A copy that looks the same without the page's style.
const drawn = (svg) => {
  const twin = svg.cloneNode(true);
  const [own, others] = [[svg, ...svg.querySelectorAll("*")], [twin, ...twin.querySelectorAll("*")]];
  own.forEach((element, at) => {
    const style = getComputedStyle(element);
    for (const name of KEPT) others[at].style.setProperty(name, style.getPropertyValue(name));
    others[at].removeAttribute("class");
  });
  return twin;
};

const picture = (figure) => {
  const space = "http://www.w3.org/2000/svg";
  const sheet = document.createElementNS(space, "svg");
  let [top, wide] = [10, 0];
  const put = (element, x, width, height) => {
    for (const [name, value] of Object.entries({ x, y: top, width, height })) element.setAttribute(name, value);
    sheet.append(element);
  };
  for (const entry of figure.querySelectorAll(".legend > span")) {
    put(drawn(entry.querySelector("svg")), 10, 22, 14);
    const label = document.createElementNS(space, "text");
    label.textContent = entry.textContent;
    const style = getComputedStyle(entry);
    for (const [name, value] of Object.entries({ x: 38, y: top + 11, fill: style.color })) label.setAttribute(name, value);
    label.setAttribute("font-family", style.fontFamily);
    label.setAttribute("font-size", 12);
    sheet.append(label);
    top += 20;
  }
  for (const svg of figure.querySelectorAll(".panels > svg")) {
    const { width, height } = svg.viewBox.baseVal;
    top += 10;
    put(drawn(svg), 10, width, height);
    top += height;
    wide = Math.max(wide, width);
  }
  const ground = document.createElementNS(space, "rect");
  const size = { width: wide + 20, height: top + 10 };
  for (const [name, value] of Object.entries(size)) {
    sheet.setAttribute(name, value);
    ground.setAttribute(name, value);
  }
  ground.setAttribute("fill", getComputedStyle(document.body).getPropertyValue("--surface").trim());
  sheet.prepend(ground);
  return new XMLSerializer().serializeToString(sheet);
};

document.querySelectorAll("figure").forEach((figure, index) => {
  const name = `${figure.closest("section").id}-${index + 1}`;
  const tools = document.createElement("div");
  tools.className = "tools";
  tools.append(
    button("SVG", "Save this figure as SVG", () => save(`${name}.svg`, "image/svg+xml", picture(figure))),
    button("CSV", "Save the values of this figure as CSV", () =>
      save(`${name}.csv`, "text/csv", values(figure.querySelector(".values table"))),
    ),
  );
  figure.querySelector("figcaption").before(tools);
});

// Print: what is folded away on a screen has to be seen on paper.

let unfolded = [];
addEventListener("beforeprint", () => {
  unfolded = [...document.querySelectorAll("details:not([open])")].filter((one) => !one.closest(".values"));
  for (const one of unfolded) one.open = true;
});
addEventListener("afterprint", () => {
  for (const one of unfolded) one.open = false;
});
