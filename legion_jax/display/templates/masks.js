"use strict";
// Masks: COCO's compressed run lengths, drawn in the browser at the size of the picture.

const CANVAS_SIDE = 640;

// Lengths of runs of zeros and ones by turns: five bits to a character, the lowest first; from the
// fourth on each is stored as the difference to the one two before it.
function runLengths(code) {
  const runs = [];
  for (let at = 0; at < code.length;) {
    let value = 0, shift = 0, letter;
    do {
      letter = code.charCodeAt(at++) - 48;
      value |= (letter & 31) << shift;
      shift += 5;
    } while (letter & 32);
    if (letter & 16) value |= -1 << shift;
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

// {grid: Uint8Array of width * height, box, top} of a mask; null for one without a pixel. A pixel
// is set where the mask touches it, so that thin masks stay visible.
function rasterise(rle, width, height) {
  const [tall, wide] = rle.size, grid = new Uint8Array(width * height);
  const box = {left: width, top: height, right: -1, bottom: -1};
  const spanX = x => [Math.floor(x * width / wide), Math.ceil((x + 1) * width / wide)];
  const fill = (x, top, bottom) => {
    const [left, right] = spanX(x);
    const first = Math.floor(top * height / tall), last = Math.ceil(bottom * height / tall);
    for (let y = first; y < last; y++) grid.fill(1, y * width + left, y * width + right);
    box.left = Math.min(box.left, left); box.right = Math.max(box.right, right);
    box.top = Math.min(box.top, first); box.bottom = Math.max(box.bottom, last);
  };
  let at = 0;  // pixels are counted down the columns
  runLengths(rle.counts).forEach((length, k) => {
    const end = at + length;
    if (k % 2) {
      for (let start = at; start < end;) {
        const x = Math.floor(start / tall), stop = Math.min(end, (x + 1) * tall);
        fill(x, start - x * tall, stop - x * tall);
        start = stop;
      }
    }
    at = end;
  });
  return box.right < 0 ? null : {grid, box};
}

// Share of a photo that a mask covers, from its run lengths alone.
function area(rle) {
  const marked = runLengths(rle.counts).reduce((sum, n, k) => sum + (k % 2 ? n : 0), 0);
  return marked / (rle.size[0] * rle.size[1]);
}

// Tints inside, a dark line around and a bright one along the edge; `lit`: the only mask to show
// strongly, or null.
function paint(canvas, masks, lit) {
  const context = canvas.getContext("2d"), {width, height} = canvas;
  const image = context.createImageData(width, height), data = image.data;
  const put = (p, tone, alpha) => {
    const under = data[4 * p + 3] / 255, over = alpha + under * (1 - alpha);
    for (let c = 0; c < 3; c++) {
      data[4 * p + c] = (tone[c] * alpha + data[4 * p + c] * under * (1 - alpha)) / over;
    }
    data[4 * p + 3] = 255 * over;
  };
  const each = (mask, margin, visit) => {
    if (!mask.raster) return;
    const {grid, box} = mask.raster;
    for (let y = Math.max(0, box.top - margin); y < Math.min(height, box.bottom + margin); y++) {
      for (let x = Math.max(0, box.left - margin); x < Math.min(width, box.right + margin); x++) {
        visit(y * width + x, x, y, grid);
      }
    }
  };
  const near = (grid, x, y, far, wanted) => {
    for (const [a, b] of [[far, 0], [-far, 0], [0, far], [0, -far]]) {
      const inside = x + a >= 0 && x + a < width && y + b >= 0 && y + b < height;
      if (Boolean(inside && grid[(y + b) * width + x + a]) === wanted) return true;
    }
    return false;
  };
  const strong = masks.filter(mask => lit === null || mask.number === lit);
  for (const mask of masks) {
    const alpha = lit === null ? 0.35 : mask.number === lit ? 0.55 : 0.08;
    each(mask, 0, (p, x, y, grid) => grid[p] && put(p, mask.tone, alpha));
  }
  for (const mask of strong) {
    each(mask, 1, (p, x, y, grid) =>
      !grid[p] && near(grid, x, y, 1, true) && put(p, [0, 0, 0], 0.6));
  }
  for (const mask of strong) {
    each(mask, 0, (p, x, y, grid) => grid[p]
      && (near(grid, x, y, 1, false) || near(grid, x, y, 2, false)) && put(p, mask.tone, 1));
  }
  context.putImageData(image, 0, 0);
}

// Where the number of a mask stands, in per cent: above the middle of its top row, inside the
// picture, and beside the numbers that are there already.
function tagPlace(raster, width, height, taken) {
  const {grid, box} = raster, row = [];
  for (let x = box.left; x < box.right; x++) if (grid[box.top * width + x]) row.push(x);
  const middle = row.length ? row[row.length >> 1] : (box.left + box.right) / 2;
  const clamp = (value, low) => Math.min(96, Math.max(low, value));
  const x = clamp(100 * (middle + 0.5) / width, 4), y = clamp(100 * box.top / height, 14);
  const covered = spot => taken.some(([a, b]) => Math.abs(a - spot) < 7 && Math.abs(b - y) < 9);
  const free = [0, 8, -8, 16, -16, 24, -24].map(shift => x + shift)
    .filter(spot => spot >= 4 && spot <= 96 && !covered(spot));
  return [free.length ? free[0] : x, y];
}
