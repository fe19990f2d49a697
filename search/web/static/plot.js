// Points on a canvas: drawn, moved, enlarged, pointed at and chosen from. Knows nothing of where they come from.

const NEAR = 14;
const FRAME = 44;
// The corner at the upper right where buttons lie, which pictures are kept out of.
const TOOLS = { wide: 48, high: 164 };

// `data`: x, y (0 to 1), label, colours. `picture(at)`: an image that is loaded, or null. Calls back with places in `data`.
export function plot(canvas, data, { picture, onPoint, onOpen, onChoose }) {
  const pen = canvas.getContext("2d");
  const count = data.x.length;
  const view = { x: 0.5, y: 0.5, scale: 1 };
  let width = 0, height = 0, ratio = 1, pointed = -1, chosen = new Set(), box = null, hidden = new Set(), due = 0;

  // A wide canvas is used in its width, too, but like stays near like.
  const across = () => Math.min(width * 0.94, height * 1.7) * view.scale;
  const down = () => Math.min(height * 0.9, width * 1.3) * view.scale;
  const left = (at) => width / 2 + (data.x[at] - view.x) * across();
  const top = (at) => height / 2 - (data.y[at] - view.y) * down();
  const seen = (at) => !hidden.has(data.label[at]);

  const buckets = new Map();
  const cell = 0.02;
  for (let at = 0; at < count; at++) {
    const key = `${Math.floor(data.x[at] / cell)} ${Math.floor(data.y[at] / cell)}`;
    if (!buckets.has(key)) buckets.set(key, []);
    buckets.get(key).push(at);
  }

  function nearest(px, py) {
    const x = view.x + (px - width / 2) / across(), y = view.y - (py - height / 2) / down();
    const reach = Math.max(1, Math.ceil(NEAR / Math.min(across(), down()) / cell));
    let best = -1, least = NEAR * NEAR;
    for (let i = -reach; i <= reach; i++)
      for (let j = -reach; j <= reach; j++)
        for (const at of buckets.get(`${Math.floor(x / cell) + i} ${Math.floor(y / cell) + j}`) || []) {
          if (!seen(at)) continue;
          const apart = (left(at) - px) ** 2 + (top(at) - py) ** 2;
          if (apart < least) (least = apart), (best = at);
        }
    return best;
  }

  function draw() {
    due = 0;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const size = Math.min(7, 2.2 + 1.1 * Math.sqrt(view.scale) + (count < 1500 ? 1 : 0));
    const shown = [];
    for (let at = 0; at < count; at++) {
      const x = left(at), y = top(at);
      if (x < -FRAME || y < -FRAME || x > width + FRAME || y > height + FRAME || !seen(at)) continue;
      shown.push(at);
      pen.globalAlpha = chosen.size && !chosen.has(at) ? 0.25 : 0.85;
      pen.fillStyle = data.colours[data.label[at]];
      pen.beginPath();
      pen.arc(x, y, size, 0, 7);
      pen.fill();
    }
    pen.globalAlpha = 1;
    // Some pictures among the points, and all of them where there is room.
    const taken = new Map();
    const room = Math.max(FRAME + 6, (count < 400 ? 60 : 118) / view.scale ** 0.7);
    for (const at of shown) {
      const x = left(at), y = top(at);
      if (x > width - TOOLS.wide - FRAME / 2 && y < TOOLS.high + FRAME / 2) continue;
      const key = `${Math.floor(x / room)} ${Math.floor(y / room)}`;
      let free = true;
      for (let i = -1; i <= 1; i++)
        for (let j = -1; j <= 1; j++) {
          const other = taken.get(`${Math.floor(x / room) + i} ${Math.floor(y / room) + j}`);
          if (other && Math.abs(other[0] - x) < room && Math.abs(other[1] - y) < room) free = false;
        }
      if (!free) continue;
      taken.set(key, [x, y]);
      frame(at, x, y, FRAME);
    }
    if (pointed >= 0) frame(pointed, left(pointed), top(pointed), 0);
    if (box) {
      pen.strokeStyle = getComputedStyle(canvas).color;
      pen.setLineDash([5, 4]);
      pen.strokeRect(box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0);
      pen.setLineDash([]);
    }
  }

  function frame(at, x, y, size) {
    if (!size) {
      pen.strokeStyle = getComputedStyle(canvas).color;
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc(x, y, 9, 0, 7);
      pen.stroke();
      pen.lineWidth = 1;
      return;
    }
    const image = picture(at, redraw);
    if (!image) return;
    const half = size / 2;
    pen.globalAlpha = chosen.size && !chosen.has(at) ? 0.3 : 1;
    pen.fillStyle = "#fff";
    pen.strokeStyle = data.colours[data.label[at]];
    pen.lineWidth = 2;
    pen.beginPath();
    pen.roundRect(x - half - 2, y - half - 2, size + 4, size + 4, 7);
    pen.fill();
    pen.stroke();
    image.draw(pen, x - half, y - half, size);
    pen.globalAlpha = 1;
    pen.lineWidth = 1;
  }

  function redraw() {
    due ||= requestAnimationFrame(draw);
  }

  function resize() {
    const bounds = canvas.getBoundingClientRect();
    ratio = devicePixelRatio || 1;
    width = bounds.width;
    height = bounds.height;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    draw();
  }

  const place = (event) => {
    const bounds = canvas.getBoundingClientRect();
    return [event.clientX - bounds.left, event.clientY - bounds.top];
  };

  function zoom(factor, px = width / 2, py = height / 2) {
    const before = [(px - width / 2) / across(), (py - height / 2) / down()];
    view.scale = Math.min(60, Math.max(0.8, view.scale * factor));
    view.x += before[0] - (px - width / 2) / across();
    view.y -= before[1] - (py - height / 2) / down();
    redraw();
  }

  const fingers = new Map();
  let moved = false, spread = 0;
  const listeners = {
    pointerdown(event) {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, place(event));
      moved = false;
      if (event.shiftKey || canvas.dataset.mode === "choose") {
        const [x, y] = place(event);
        box = { x0: x, y0: y, x1: x, y1: y };
      }
    },
    pointermove(event) {
      const [x, y] = place(event);
      const before = fingers.get(event.pointerId);
      if (!before) {
        const at = nearest(x, y);
        if (at !== pointed) (pointed = at), onPoint(at, x, y), redraw();
        return;
      }
      if (Math.hypot(x - before[0], y - before[1]) > 3) moved = true;
      if (fingers.size === 2) {
        fingers.set(event.pointerId, [x, y]);
        const [one, other] = [...fingers.values()];
        const now = Math.hypot(one[0] - other[0], one[1] - other[1]);
        if (spread) zoom(now / spread, (one[0] + other[0]) / 2, (one[1] + other[1]) / 2);
        spread = now;
        return;
      }
      if (box) (box.x1 = x), (box.y1 = y), redraw();
      else if (moved) {
        view.x -= (x - before[0]) / across();
        view.y += (y - before[1]) / down();
        fingers.set(event.pointerId, [x, y]);
        onPoint(-1);
        redraw();
      }
    },
    pointerup(event) {
      const [x, y] = place(event);
      fingers.delete(event.pointerId);
      spread = 0;
      if (box) {
        const [x0, x1] = [box.x0, box.x1].sort((a, b) => a - b), [y0, y1] = [box.y0, box.y1].sort((a, b) => a - b);
        const found = [];
        for (let at = 0; at < count; at++)
          if (seen(at) && left(at) >= x0 && left(at) <= x1 && top(at) >= y0 && top(at) <= y1) found.push(at);
        box = null;
        chosen = new Set(found);
        onChoose(found);
        redraw();
      } else if (!moved) {
        const at = nearest(x, y);
        if (at >= 0) onOpen(at);
        else if (chosen.size) (chosen = new Set()), onChoose([]), redraw();
      }
    },
    pointercancel(event) {
      fingers.delete(event.pointerId);
      box = null;
      spread = 0;
    },
    pointerleave() {
      if (!fingers.size && pointed >= 0) (pointed = -1), onPoint(-1), redraw();
    },
    wheel(event) {
      event.preventDefault();
      onPoint(-1);
      zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), ...place(event));
    },
    keydown(event) {
      const step = 0.08 / view.scale;
      const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
      if (moves[event.key]) {
        view.x += moves[event.key][0];
        view.y += moves[event.key][1];
        redraw();
      } else if (event.key === "+" || event.key === "=") zoom(1.3);
      else if (event.key === "-") zoom(1 / 1.3);
      else if (event.key === "Enter") {
        const found = [];
        for (let at = 0; at < count; at++)
          if (seen(at) && left(at) >= 0 && left(at) <= width && top(at) >= 0 && top(at) <= height) found.push(at);
        chosen = new Set(found);
        onChoose(found);
        redraw();
      } else if (event.key === "Escape") (chosen = new Set()), onChoose([]), redraw();
      else return;
      event.preventDefault();
    },
  };
  for (const [name, listener] of Object.entries(listeners)) canvas.addEventListener(name, listener, { passive: false });
  const watch = new ResizeObserver(resize);
  watch.observe(canvas);
  return {
    zoom,
    hide(labels) {
      hidden = labels;
      redraw();
    },
    clear() {
      chosen = new Set();
      redraw();
    },
    whole() {
      Object.assign(view, { x: 0.5, y: 0.5, scale: 1 });
      redraw();
    },
    end() {
      watch.disconnect();
      cancelAnimationFrame(due);
      for (const [name, listener] of Object.entries(listeners)) canvas.removeEventListener(name, listener);
    },
  };
}
