"use strict";
// Drawing of the page's timeline: lanes on a canvas, every kernel where there is room, else its share of a pixel.
(() => {
  const LABELS = 96, LABELS_LOW = 62; // left of the lanes
  const RULER = 22, RANGE = 17, LAUNCHES = 12, LANE = 34, LOW_LANE = 20, GAP = 4;
  const MOST_LAUNCHES = 6000, FEW_PER_PIXEL = 1.5, MANY_PER_PIXEL = 128, NARROWEST_TEXT = 24;
  const { COLOURS, BLOCK, within } = kernelTimeline;

  const theme = () => {
    const style = getComputedStyle(document.documentElement);
    const value = (name) => style.getPropertyValue(name).trim();
    const names = [...kernelTimeline.LEVELS.map((_, i) => `--split-${i}`), "--split-6"];
    const roles = ["--role-gemm", "--role-communication", "--role-elementwise", "--role-other", "--role-copy"];
    const colours = [...names, ...roles].map(value);
    return {
      colours, bytes: colours.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16))),
      ink: value("--ink"), quiet: value("--quiet"), rule: value("--rule"), ground: value("--ground"),
      raised: value("--raised"), focus: value("--focus"),
    };
  };

  const hatch = (context, colours, scale) => {
    const tile = document.createElement("canvas");
    tile.width = tile.height = Math.round(7 * scale);
    const pen = tile.getContext("2d");
    pen.strokeStyle = colours.rule;
    pen.lineWidth = scale;
    pen.beginPath();
    for (const shift of [-tile.width, 0, tile.width]) {
      pen.moveTo(shift, tile.height);
      pen.lineTo(shift + tile.width, 0);
    }
    pen.stroke();
    const pattern = context.createPattern(tile, "repeat");
    pattern.setTransform(new DOMMatrix().scale(1 / scale));
    return pattern;
  };

  // The lanes from top to bottom with their places, in CSS pixels.
  kernelTimeline.layout = (data) => {
    const rows = [{ kind: "ruler", y: 0, height: RULER }];
    let y = RULER + GAP;
    const add = (row, height) => { rows.push({ ...row, y, height }); y += height + GAP; };
    for (const name of ["step", "layer", "call"]) {
      if (data.spans[name].first.length) add({ kind: "range", name, label: name === "call" ? "attention" : name }, RANGE);
    }
    if (data.launch.some((at) => at > 0)) add({ kind: "launches", label: "launches" }, LAUNCHES);
    const height = data.lanes.length > 8 ? LOW_LANE : LANE;
    for (const lane of data.lanes) add({ kind: "lane", lane, label: lane.name }, height);
    return { rows, height: y };
  };

  kernelTimeline.painter = (canvas, data) => {
    const context = canvas.getContext("2d", { alpha: false });
    const strip = document.createElement("canvas");
    const pen = strip.getContext("2d");
    const layout = kernelTimeline.layout(data);
    let look = theme(), width = 0, left = 0, scale = 1, idle = null, sums = new Float32Array(0), image = null;

    const resize = () => {
      look = theme();
      scale = Math.min(2, window.devicePixelRatio || 1);
      const room = Math.max(200, canvas.parentElement.clientWidth);
      left = room < 600 ? LABELS_LOW : LABELS;
      width = room - left;
      canvas.width = Math.round(room * scale);
      canvas.height = Math.round(layout.height * scale);
      canvas.style.height = `${layout.height}px`;
      strip.width = Math.round(width * scale);
      strip.height = 64;
      image = null;
      sums = new Float32Array(strip.width * COLOURS);
      idle = hatch(context, look, scale);
    };

    const text = (words, x, y, room, colour) => {
      if (room < NARROWEST_TEXT) return;
      const fits = Math.floor((room - 6) / 6.1);
      context.fillStyle = colour;
      const number = /\d+$/.exec(words)?.[0];
      if (words.length > fits && number?.length <= fits) words = number;
      context.fillText(words.length <= fits ? words : `${words.slice(0, Math.max(1, fits - 1))}…`, x + 3, y);
    };

    const ruler = (view) => {
      const pixels = (view.to - view.from) / width;
      const least = pixels * 90 * data.tick;
      const power = 10 ** Math.floor(Math.log10(least));
      const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= least);
      for (let at = Math.ceil((view.from * data.tick) / step) * step; at <= view.to * data.tick; at += step) {
        const x = (at / data.tick - view.from) / pixels;
        context.fillStyle = look.rule;
        context.fillRect(x, 0, 1, layout.height);
        context.fillStyle = look.quiet;
        context.fillText(kernelTimeline.moment(at, step), x + 4, 10);
      }
    };

    const range = (row, view) => {
      const spans = data.spans[row.name], { first, last } = spans;
      const per = width / (view.to - view.from);
      let at = kernelTimeline.search((i) => data.end(last[i]), 0, first.length, view.from);
      let reached = -1;
      for (; at < first.length && data.start[first[at]] < view.to; at += 1) {
        const x = Math.max(0, (data.start[first[at]] - view.from) * per);
        const end = Math.min(width, (data.end(last[at]) - view.from) * per);
        if (end < reached + 0.7) continue;
        reached = Math.max(end, x + 1);
        const number = data[row.name][first[at]] - 1;
        const splits = data.kinds[data.kind[first[at]]][3];
        context.fillStyle = row.name === "call" ? look.colours[data.colourOfKind[data.kind[first[at]]]] : at % 2 ? look.rule : look.raised;
        context.fillRect(x, row.y, Math.max(1, end - x - 0.5), row.height);
        const words = row.name === "step" ? `${stepped(data.phases[data.phase[first[at]]])} ${number}`
          : row.name === "layer" ? (end - x < 58 ? String(number) : `layer ${number}`) : splits ? `×${splits}` : "attention";
        text(words, x, row.y + row.height / 2, end - x, row.name === "call" ? inkOn(data.colourOfKind[data.kind[first[at]]]) : look.ink);
      }
    };

    const stepped = (phase) => (!phase || phase === "other" || phase === "unknown" ? "step" : phase);

    const inkOn = (colour) => {
      const [r, g, b] = look.bytes[colour];
      return 0.3 * r + 0.59 * g + 0.11 * b > 140 ? "#101418" : "#ffffff";
    };

    // One lane where pixels hold many kernels: of each pixel, how much of its time each colour has.
    const shares = (row, view, first, last, dimmed) => {
      const { lane } = row, pixels = strip.width, per = pixels / (view.to - view.from);
      sums.fill(0);
      const add = (begin, end, colour, ticks) => {
        const a = Math.max(0, (begin - view.from) * per), b = Math.min(pixels, (end - view.from) * per);
        const left = a | 0, right = Math.min(pixels - 1, b | 0);
        if (b < 0 || a >= pixels) return;
        if (left === right) { sums[left * COLOURS + colour] += ticks * per; return; }
        const density = (ticks * per) / Math.max(1e-9, (end - begin) * per);
        for (let x = left; x <= right; x += 1) {
          sums[x * COLOURS + colour] += density * (Math.min(b, x + 1) - Math.max(a, x));
        }
      };
      const { start, took, kind, colourOfKind, tick } = data;
      if ((last - first) / pixels > MANY_PER_PIXEL && !dimmed) {
        const from = Math.floor((first - lane.first) / BLOCK), to = Math.ceil((last - lane.first) / BLOCK);
        for (let block = from; block < to; block += 1) {
          const begin = start[lane.first + block * BLOCK], end = lane.ends[block];
          for (let colour = 0; colour < COLOURS; colour += 1) {
            const ticks = lane.sums[block * COLOURS + colour];
            if (ticks) add(begin, end, colour, ticks);
          }
        }
      } else {
        for (let at = first; at < last; at += 1) {
          if (dimmed && dimmed[kind[at]]) continue;
          const lasts = took[at] / tick;
          add(start[at], start[at] + lasts, colourOfKind[kind[at]], lasts);
        }
      }
      paint(row);
    };

    const paint = (row) => {
      const height = Math.round(row.height * scale), pixels = strip.width;
      if (!image || image.height !== height) image = new ImageData(pixels, height);
      const out = image.data;
      out.fill(0);
      for (let x = 0; x < pixels; x += 1) {
        let y = height, filled = 0;
        for (let colour = 0; colour < COLOURS; colour += 1) {
          const part = sums[x * COLOURS + colour];
          if (!part) continue;
          filled += part;
          const top = Math.max(0, Math.round(height * (1 - Math.min(1, filled))));
          const [r, g, b] = look.bytes[colour];
          for (; y > top; y -= 1) {
            const at = ((y - 1) * pixels + x) * 4;
            out[at] = r; out[at + 1] = g; out[at + 2] = b; out[at + 3] = 255;
          }
        }
      }
      pen.putImageData(image, 0, 0);
      context.drawImage(strip, 0, 0, pixels, height, 0, row.y, width, row.height);
    };

    const lane = (row, view, dimmed) => {
      const per = width / (view.to - view.from), until = row.lane.until;
      const begin = Math.max(0, (data.start[row.lane.first] - view.from) * per), end = Math.min(width, (until - view.from) * per);
      if (end > begin) {
        context.fillStyle = idle;
        context.fillRect(begin, row.y, end - begin, row.height);
      }
      const [first, last] = within(data, row.lane, view.from, view.to);
      if (last - first > width * FEW_PER_PIXEL) { shares(row, view, first, last, dimmed); return last - first; }
      for (let at = first; at < last; at += 1) {
        const colour = data.colourOfKind[data.kind[at]];
        const x = (data.start[at] - view.from) * per, room = (data.took[at] / data.tick) * per;
        const left = Math.max(0, x), wide = Math.min(width, x + room) - left;
        context.globalAlpha = dimmed && dimmed[data.kind[at]] ? 0.12 : 1;
        context.fillStyle = look.colours[colour];
        context.fillRect(left, row.y, Math.max(0.6, wide - (wide > 3 ? 0.5 : 0)), row.height);
        if (wide > 38) {
          const [name, , role, splits] = data.kinds[data.kind[at]];
          text(`${role === 0 && splits ? `×${splits} ` : ""}${name}`, left, row.y + row.height / 2, wide, inkOn(colour));
        }
      }
      context.globalAlpha = 1;
      return last - first;
    };

    const launches = (row, view) => {
      const per = width / (view.to - view.from);
      context.fillStyle = look.quiet;
      const visible = data.lanes.map((one) => within(data, one, view.from, view.to));
      if (visible.reduce((sum, [first, last]) => sum + last - first, 0) > MOST_LAUNCHES) {
        text("zoom in to see the launches", 0, row.y + row.height / 2, width, look.quiet);
        return;
      }
      for (const [first, last] of visible) {
        for (let at = first; at < last; at += 1) {
          if (!data.launch[at]) continue;
          const x = (data.launch[at] - 1 - view.from) * per;
          if (x < width && x >= -50) context.fillRect(x, row.y + 2, Math.max(1, (data.launched[at] / data.tick) * per), row.height - 4);
        }
      }
    };

    // The chosen kernel is framed and joined to its launch.
    const join = (chosen, view) => {
      const row = layout.rows.find((one) => one.lane && chosen >= one.lane.first && chosen < one.lane.first + one.lane.rows);
      const top = layout.rows.find((one) => one.kind === "launches");
      const per = width / (view.to - view.from);
      const x = (data.start[chosen] - view.from) * per, room = (data.took[chosen] / data.tick) * per;
      context.strokeStyle = look.ink;
      context.lineWidth = 1.5;
      context.strokeRect(x - 0.5, row.y - 1, Math.max(2, room) + 1, row.height + 2);
      if (!top || !data.launch[chosen]) return;
      const from = (data.launch[chosen] - 1 - view.from) * per;
      context.beginPath();
      context.moveTo(from, top.y + top.height);
      context.bezierCurveTo(from, (top.y + row.y) / 2 + 10, x, (top.y + row.y) / 2, x, row.y);
      context.stroke();
      context.fillStyle = look.ink;
      context.fillRect(from, top.y, Math.max(2, (data.launched[chosen] / data.tick) * per), top.height);
    };

    const labels = () => {
      context.fillStyle = look.quiet;
      for (const row of layout.rows) {
        if (row.label) context.fillText(row.label, 4 - left, row.y + row.height / 2, left - 8);
      }
    };

    const draw = (view, chosen, dimmed) => {
      context.save();
      context.setTransform(scale, 0, 0, scale, 0, 0);
      context.font = '11px system-ui, "DejaVu Sans", sans-serif';
      context.fillStyle = look.ground;
      context.fillRect(0, 0, left + width, layout.height);
      context.translate(left, 0);
      context.textBaseline = "middle";
      labels();
      context.beginPath();
      context.rect(0, 0, width, layout.height);
      context.clip();
      ruler(view);
      let drawn = 0;
      for (const row of layout.rows) {
        if (row.kind === "range") range(row, view);
        else if (row.kind === "launches") launches(row, view);
        else if (row.kind === "lane") drawn += lane(row, view, dimmed);
      }
      if (chosen >= 0) join(chosen, view);
      context.restore();
      return drawn;
    };

    resize();
    return { draw, resize, layout, width: () => width, left: () => left };
  };
})();
