"use strict";
// The kernels of the page's timeline: read from the page, searched by time, summed in blocks.
const kernelTimeline = {};
(() => {
  const BLOCK = 64; // kernels summed together where a pixel holds many
  const LEVELS = JSON.parse(document.getElementById("gpu-head").textContent).levels; // attention's colours: up to so many splits, and above
  const COLOURS = LEVELS.length + 1 + 5; // then the other roles, norm and elementwise sharing one
  const OTHERS = { "matrix product": 0, communication: 1, normalisation: 2, elementwise: 2, other: 3, copy: 4 };

  // Bytes from base64, in parts that leave no long string behind.
  const bytesOf = (text) => {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const raw = atob(text);
    const bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i += 1) bytes[i] = raw.charCodeAt(i);
    return bytes;
  };

  const inflated = async (bytes) => {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };

  // A column lies byte by byte, as differences to the row before.
  const column = (bytes, at, rows) => {
    const values = new Uint32Array(rows);
    let sum = 0;
    for (let i = 0, a = at, b = at + rows, c = b + rows, d = c + rows; i < rows; i += 1) {
      sum = (sum + (bytes[a + i] | (bytes[b + i] << 8) | (bytes[c + i] << 16) | (bytes[d + i] << 24))) | 0;
      values[i] = sum >>> 0;
    }
    return values;
  };

  const colourOf = (role, splits) => {
    if (role !== "attention") return LEVELS.length + 1 + OTHERS[role];
    const level = LEVELS.findIndex((most) => splits <= most);
    return level < 0 ? LEVELS.length : level;
  };

  kernelTimeline.COLOURS = COLOURS;
  kernelTimeline.LEVELS = LEVELS;
  kernelTimeline.BLOCK = BLOCK;

  kernelTimeline.read = async (head, text) => {
    const bytes = await inflated(bytesOf(text));
    const data = { ...head };
    head.columns.forEach((name, number) => {
      data[name] = column(bytes, number * 4 * head.rows, head.rows);
    });
    data.colourOfKind = Uint8Array.from(head.kinds, ([, , role, splits]) => colourOf(head.roles[role], splits));
    data.attends = Uint8Array.from(head.kinds, ([, , role]) => (head.roles[role] === "attention" ? 1 : 0));
    data.end = (row) => data.start[row] + data.took[row] / data.tick;
    for (const lane of data.lanes) blocksOf(data, lane);
    data.from = 0;
    data.to = Math.max(1, ...data.lanes.map((lane) => lane.until));
    data.main = mainLane(data);
    data.spans = { step: runs(data, "step"), layer: runs(data, "layer"), call: runs(data, "call") };
    return data;
  };

  // Of each block: where it ends, and the time of each colour.
  const blocksOf = (data, lane) => {
    const count = Math.ceil(lane.rows / BLOCK);
    lane.sums = new Float32Array(count * COLOURS);
    lane.ends = new Float64Array(count);
    lane.until = 0;
    const { start, took, kind, colourOfKind, tick } = data;
    for (let block = 0, row = lane.first; block < count; block += 1) {
      const last = Math.min(lane.first + lane.rows, row + BLOCK);
      let end = 0;
      for (; row < last; row += 1) {
        const lasts = took[row] / tick;
        lane.sums[block * COLOURS + colourOfKind[kind[row]]] += lasts;
        if (start[row] + lasts > end) end = start[row] + lasts;
      }
      lane.ends[block] = end;
      if (end > lane.until) lane.until = end;
    }
  };

  // The lane whose ranges stand above: that of most attention, else of most kernels.
  const mainLane = (data) => {
    const weight = data.lanes.map((lane) => {
      let attention = 0;
      for (let row = lane.first; row < lane.first + lane.rows; row += 1) attention += data.attends[data.kind[row]];
      return attention * 1e9 + lane.rows;
    });
    return data.lanes[weight.indexOf(Math.max(...weight))];
  };

  // Rows of the main lane with one number of step, layer (in one step) or call, one after another.
  const runs = (data, name) => {
    const found = { first: [], last: [] };
    const lane = data.main, values = data[name], step = data.step;
    let open = 0, before = -1;
    for (let row = lane.first; row < lane.first + lane.rows; row += 1) {
      const value = values[row];
      if (!value) continue;
      if (value !== open || (name === "layer" && before >= 0 && step[row] !== step[before])) {
        if (before >= 0) found.last.push(before);
        found.first.push(row);
        open = value;
      }
      before = row;
    }
    if (before >= 0) found.last.push(before);
    return found;
  };

  // The first place from low on whose value is not below a moment.
  kernelTimeline.search = (value, low, high, moment) => {
    while (low < high) {
      const middle = (low + high) >> 1;
      if (value(middle) < moment) low = middle + 1;
      else high = middle;
    }
    return low;
  };

  // Rows [first, last) of a lane that may run within [from, to].
  kernelTimeline.within = (data, lane, from, to) => {
    const end = lane.first + lane.rows;
    let first = kernelTimeline.search((row) => data.start[row], lane.first, end, from);
    const last = kernelTimeline.search((row) => data.start[row], first, end, to);
    for (let back = 0; first > lane.first && back < 8; back += 1) {
      if (data.end(first - 1) <= from) break;
      first -= 1;
    }
    return [first, last];
  };

  // What runs in the view, by name: {name, role, count, ticks}, most time first.
  kernelTimeline.totals = (data, from, to, wanted) => {
    const ticks = new Float64Array(data.kinds.length), counts = new Float64Array(data.kinds.length);
    for (const lane of data.lanes) {
      const [first, last] = kernelTimeline.within(data, lane, from, to);
      for (let row = first; row < last; row += 1) {
        const begin = data.start[row], end = begin + data.took[row] / data.tick;
        const inside = (end < to ? end : to) - (begin > from ? begin : from);
        if (inside <= 0) continue;
        ticks[data.kind[row]] += inside;
        counts[data.kind[row]] += data.count[row];
      }
    }
    const byName = new Map();
    data.kinds.forEach(([name, , role, splits], kind) => {
      if (!counts[kind] || (wanted && !wanted[kind])) return;
      const key = `${name}|${role}|${role === 0 ? splits : ""}`;
      const total = byName.get(key) || { name, role, splits, kind, count: 0, ticks: 0 };
      total.count += counts[kind];
      total.ticks += ticks[kind];
      byName.set(key, total);
    });
    return [...byName.values()].sort((a, b) => b.ticks - a.ticks);
  };
})();
