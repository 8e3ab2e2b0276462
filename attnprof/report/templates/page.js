"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const text = (index) => data.strings[index ?? 0];
  const byId = (id) => document.getElementById(id);
  const PAGE = 25;

  // Elements are made, never parsed: no name can become markup.
  const make = (tag, attributes, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== false && value != null) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child != null && child !== ""));
    return element;
  };

  const duration = (ns) => {
    if (ns == null) return "";
    for (const [limit, scale, unit] of [[1e3, 1, "ns"], [1e6, 1e3, "µs"], [1e9, 1e6, "ms"]]) {
      if (ns < limit * 0.9995) return `${threeDigits(ns / scale)} ${unit}`;
    }
    return `${threeDigits(ns / 1e9)} s`;
  };
  const threeDigits = (value) =>
    Number.isInteger(value) && value < 1000 ? String(value) : value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
  const count = (number) => number.toLocaleString("en");
  const known = (number) => (number < 0 ? null : number);
  const splitsOf = (shape) => {
    const each = text(shape.of_requests || 0);
    if (each) return `${each} splits a request`;
    return shape.splits == null ? "" : shape.splits === 1 ? "1 split" : `${shape.splits} splits`;
  };
  const badge = (observed) =>
    make("span", { class: observed ? "badge observed" : "badge predicted" }, observed ? "observed" : "predicted, not observed");

  const calls = [];
  for (const [step, phase, shape, kind, seq, layer, length, spent] of data.groups) {
    for (let i = 0; i < length; i += 1) {
      calls.push({
        order: calls.length, step: known(step), phase: text(phase), shape: data.shapes[shape], kind: known(kind),
        seq: known(seq < 0 ? seq : seq + i), layer: known(layer < 0 ? layer : layer + i), ns: spent ? spent[i] : null,
      });
    }
  }

  // The derivation of one call.
  const launches = (rows) => make("ul", {}, ...rows.map(([kernel, grid, block, smem]) =>
    make("li", {}, make("code", {}, text(kernel)), make("div", { class: "quiet" },
      `grid ${text(grid)}, block ${text(block)}` + (smem ? `, ${count(smem)} bytes of dynamic shared memory` : "")))));

  const derivation = (call) => {
    const shape = call.shape;
    const box = make("div", { class: "derivation" });
    if (shape.call != null) box.append(make("p", {}, make("strong", {}, "call "), text(shape.call)));
    box.append(make("p", {}, make("strong", {}, `${text(shape.verdict)}: `), text(shape.detail)));
    if (shape.inferred != null) {
      box.append(make("p", {}, make("strong", {}, "KV lengths that explain it "), text(shape.inferred)));
    }
    if (shape.ran) {
      box.append(make("h3", {}, "What ran", badge(true)));
      const kernels = typeof kernelTimeline === "undefined" ? "" :
        make("button", { type: "button", class: "as-link", onclick: () => kernelTimeline.showCall(call.order) }, "see its kernels");
      box.append(make("p", {}, [splitsOf(shape), duration(call.ns)].filter(Boolean).join(", "), " ", kernels));
      box.append(launches(shape.ran));
    }
    if (shape.would) {
      box.append(make("h3", {}, `What ${text(shape.version)} does with it`, badge(false)));
      if (shape.refused) box.append(make("p", {}, make("strong", {}, "refused "), text(shape.refused)));
      if (shape.reasons.length) {
        box.append(make("table", { class: "reasons" },
          make("thead", {}, make("tr", {}, ...["rule", "gives", "why"].map((title) => make("th", { scope: "col" }, title)))),
          make("tbody", {}, ...shape.reasons.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, text(cell))))))));
      }
      box.append(launches(shape.would));
    }
    return box;
  };

  // The table of calls: filtered and sorted whole, shown a page at a time.
  const COLUMNS = [
    ["call", (c) => c.seq ?? c.order, true], ["phase", (c) => (c.phase === "other" ? "" : c.phase)],
    ["step", (c) => c.step, true], ["layer", (c) => c.layer, true], ["kind of layer", (c) => (c.kind == null ? null : data.kinds[c.kind])], ["KV length", (c) => c.shape.keys ?? null, true],
    ["kernel", (c) => text(c.shape.kernel).replace(" + flash_fwd_splitkv_combine_kernel", " + combine")],
    ["splits", (c) => c.shape.splits, true], ["GPU time", (c) => c.ns, true],
    ["source", (c) => (c.shape.observed ? "observed" : c.shape.would ? "predicted" : "")],
    ["verdict", (c) => text(c.shape.verdict)],
  ];
  const compare = (a, b) => {
    if (a == null || b == null) return (a == null) - (b == null);
    return typeof a === "number" ? a - b : String(a).localeCompare(String(b));
  };
  const callTable = byId("call-table");
  let visible = calls;
  let page = 0;
  let shownColumns = [];

  const callRow = (call) => {
    const cells = shownColumns.map(([title, value, right]) => {
      const raw = value(call);
      const shown = raw == null ? "" : title === "GPU time" ? duration(raw) : typeof raw === "number" ? count(raw) : raw;
      const content = title === "kernel" ? make("code", {}, shown) : shown;
      return make("td", { class: right ? "right" : raw === "predicted" ? "source-predicted" : false }, content);
    });
    const button = make("button", { type: "button", class: "as-link", "aria-expanded": "false" }, "derivation");
    const row = make("tr", { class: call.shape.failed ? "failed" : false, "data-order": call.order },
      ...cells, make("td", {}, button));
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!open));
      if (open) row.nextElementSibling.remove();
      else row.after(make("tr", {}, make("td", { colspan: cells.length + 1 }, derivation(call))));
    });
    return row;
  };

  const showPage = () => {
    const pages = Math.max(1, Math.ceil(visible.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    callTable.tBodies[0].replaceChildren(...visible.slice(page * PAGE, (page + 1) * PAGE).map(callRow));
    byId("call-count").textContent = `${count(visible.length)} of ${count(calls.length)} calls`;
    byId("call-page").textContent = `page ${count(page + 1)} of ${count(pages)}`;
    byId("call-back").disabled = page === 0;
    byId("call-next").disabled = page === pages - 1;
  };

  const filterCalls = () => {
    const form = new FormData(byId("call-filter"));
    const wanted = (name) => String(form.get(name) || "").trim();
    const step = wanted("step"), layer = wanted("layer"), kernel = wanted("kernel").toLowerCase();
    visible = calls.filter((call) =>
      (!wanted("phase") || call.phase === wanted("phase")) && (!step || String(call.step) === step) &&
      (!layer || String(call.layer) === layer) && (!wanted("verdict") || text(call.shape.verdict) === wanted("verdict")) &&
      (!kernel || text(call.shape.kernel).toLowerCase().includes(kernel)));
    const sorted = callTable.tHead.querySelector("[aria-sort]");
    if (sorted) {
      const value = shownColumns[sorted.cellIndex][1];
      const sign = sorted.getAttribute("aria-sort") === "descending" ? -1 : 1;
      visible.sort((a, b) => sign * compare(value(a), value(b)) || a.order - b.order);
    }
    page = 0;
    showPage();
  };

  const turn = (header) => {
    const next = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", next);
    return next === "descending" ? -1 : 1;
  };

  if (callTable) {
    shownColumns = COLUMNS.filter(([, value]) => calls.some((call) => value(call) != null && value(call) !== ""));
    const head = callTable.tHead.rows[0];
    for (const [title, , right] of shownColumns) {
      const button = make("button", { type: "button" }, title);
      const header = make("th", { scope: "col", class: right ? "right" : false }, button);
      button.addEventListener("click", () => { turn(header); filterCalls(); });
      head.append(header);
    }
    head.append(make("th", { scope: "col" }, "why"));
    const choices = { phase: calls.map((call) => call.phase), verdict: calls.map((call) => text(call.shape.verdict)) };
    for (const [name, values] of Object.entries(choices)) {
      const select = byId("call-filter").elements[name];
      for (const value of new Set(values)) select.append(make("option", { value }, value));
    }
    const form = byId("call-filter");
    form.addEventListener("input", filterCalls);
    form.addEventListener("submit", (event) => event.preventDefault());
    byId("call-back").addEventListener("click", () => { page -= 1; showPage(); });
    byId("call-next").addEventListener("click", () => { page += 1; showPage(); });
    showPage();
  }

  // Every call of one step under the filter, the first one's derivation open.
  const openColumn = (column) => {
    const form = byId("call-filter");
    form.reset();
    if (column.step != null) {
      form.elements.step.value = column.step;
      if (column.phase) form.elements.phase.value = column.phase;
    }
    filterCalls();
    const index = visible.indexOf(column.calls[0]);
    page = Math.floor(Math.max(index, 0) / PAGE);
    showPage();
    const button = callTable.querySelector(`tr[data-order="${column.calls[0].order}"] button`);
    if (!button) return;
    button.click();
    button.focus();
    byId("calls").scrollIntoView({ block: "start" });
  };

  // The timelines, one per kind of layers.
  for (const chart of document.querySelectorAll("svg.chart")) {
    const figure = chart.closest(".figure"), layers = Number(chart.dataset.layers);
    const mine = layers < 0 ? calls : calls.filter((call) => call.kind === layers);
    const first = Number(chart.dataset.first), length = Number(chart.dataset.count);
    const left = Number(chart.dataset.left), width = Number(chart.dataset.width);
    const columns = Array.from({ length }, () => ({ step: null, phase: "", calls: [] }));
    if (chart.dataset.kind === "step") {
      columns.forEach((column, index) => Object.assign(column, { step: first + index, phase: "decode" }));
      for (const call of mine) if (call.phase === "decode" && call.step != null) columns[call.step - first]?.calls.push(call);
    } else {
      mine.filter((call) => call.shape.observed || call.shape.would).forEach((call, index) => columns[index]?.calls.push(call));
    }
    let at = -1;

    const describe = (index) => {
      const column = columns[index];
      const lines = [];
      for (const shape of new Set(column.calls.map((call) => call.shape))) {
        const alike = column.calls.filter((call) => call.shape === shape);
        const layers = alike.filter((call) => call.layer != null).length;
        const where = layers > 1 ? `${layers} layers` : layers === 1 ? `layer ${alike[0].layer}` : "";
        const spent = alike.reduce((sum, call) => sum + (call.ns ?? 0), 0);
        const parts = [splitsOf(shape), shape.keys != null ? `${count(shape.keys)} keys` : "", where, spent ? duration(spent) : ""];
        lines.push(make("p", {}, make("code", {}, text(shape.kernel)), ` ${parts.filter(Boolean).join(", ")} `, badge(shape.observed)));
        lines.push(make("p", { class: "quiet" }, reason(shape)));
      }
      const title = chart.dataset.kind === "step" ? `Decode step ${count(column.step)}` : `Attention call ${count(column.calls[0]?.order ?? index)}`;
      return [make("strong", {}, title), ...lines];
    };
    const reason = (shape) => {
      const chosen = (shape.reasons || []).filter(([rule]) => /split/.test(text(rule))).pop();
      const why = chosen ? `${text(chosen[0])} ${text(chosen[1])}: ${text(chosen[2])}` : "";
      const inferred = shape.inferred != null ? `KV lengths that explain it: ${text(shape.inferred)}` : "";
      return shape.failed ? `${text(shape.verdict)}: ${text(shape.detail)}` : why || inferred || text(shape.detail);
    };
    const choose = (index) => {
      at = Math.min(Math.max(index, 0), length - 1);
      const x = left + ((at + 0.5) * width) / length;
      const cursor = chart.querySelector(".cursor");
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      const content = describe(at);
      figure.querySelector(".readout").replaceChildren(...content);
      chart.setAttribute("aria-valuenow", first + at);
      chart.setAttribute("aria-valuetext", content.map((part) => part.textContent).join(". "));
    };
    const columnAt = (event) => {
      const box = chart.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
      return Math.floor(((x - left) / width) * length);
    };
    chart.addEventListener("pointermove", (event) => choose(columnAt(event)));
    chart.addEventListener("focus", () => { if (at < 0) choose(0); });
    chart.addEventListener("click", (event) => { choose(columnAt(event)); if (columns[at].calls.length) openColumn(columns[at]); });
    chart.addEventListener("keydown", (event) => {
      const far = Math.max(1, Math.round(length / 16));
      const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, ArrowDown: at - 1, ArrowUp: at + 1,
        PageDown: at - far, PageUp: at + far, Home: 0, End: length - 1 };
      if (event.key in moves) choose(moves[event.key]);
      else if (event.key === "Enter" && at >= 0 && columns[at].calls.length) openColumn(columns[at]);
      else return;
      event.preventDefault();
    });
  }

  // The table of kernels stands in the page; its rows are reordered and hidden.
  const kernelTable = byId("kernel-table");
  if (kernelTable) {
    const body = kernelTable.tBodies[0];
    const rows = [...body.rows];
    const value = (row, index) => {
      const cell = row.cells[index];
      return cell.dataset.value === undefined ? cell.textContent.toLowerCase() : Number(cell.dataset.value);
    };
    for (const header of kernelTable.tHead.rows[0].cells) {
      header.firstElementChild.addEventListener("click", () => {
        const sign = turn(header);
        rows.sort((a, b) => sign * compare(value(a, header.cellIndex), value(b, header.cellIndex)));
        body.append(...rows);
      });
    }
    const form = byId("kernel-filter");
    const filter = () => {
      const wanted = form.elements.text.value.trim().toLowerCase();
      for (const row of rows) {
        const named = row.cells[0].textContent.toLowerCase().includes(wanted);
        row.hidden = !named || (form.elements.attention.checked && !row.classList.contains("attention"));
      }
      byId("kernel-count").textContent = `${count(rows.filter((row) => !row.hidden).length)} of ${count(rows.length)} kernels`;
    };
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    filter();
  }
})();
