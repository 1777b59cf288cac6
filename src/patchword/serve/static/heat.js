// Colour maps: the same value has the same colour in every map.

// 32 colours of matplotlib's inferno and viridis, in which equal steps look equal.
const INFERNO = "000004 040312 0b0724 150b37 210c4a 2f0a5b 3d0965 4a0c6b 57106e 64156e 71196e 7d1e6d 8a226a 972766 a32c61 b0315b bc3754 c73e4c d24644 db503b e45a31 eb6628 f1731d f68013 f98e09 fb9d07 fcac11 fbbc21 f9cb35 f5db4c f2ea69 f3f68a fcffa4";
const VIRIDIS = "440154 470d60 48186a 482374 472d7b 453781 424086 3e4989 3b528b 375b8d 33638d 2f6b8e 2c728e 297a8e 26828e 23898e 21918c 1f988b 1fa088 22a785 28ae80 32b67a 3fbc73 4ec36b 5ec962 70cf57 84d44b 98d83e addc30 c2df23 d8e219 ece51b fde725";

/** 256 x [r, g, b], interpolated between 32 hexadecimal colours. */
function table(stops) {
  const colours = stops.split(" ").map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return Array.from({ length: 256 }, (_, level) => {
    const place = (level / 255) * (colours.length - 1);
    const low = Math.min(Math.floor(place), colours.length - 2);
    return colours[low].map((from, i) => Math.round(from + (colours[low + 1][i] - from) * (place - low)));
  });
}

const inferno = table(INFERNO);
const viridis = table(VIRIDIS);
const level = (value) => Math.round(Math.max(0, Math.min(1, value)) * 255);

/** The colours of a matrix cell: its background, and the text colour with more contrast; value is 0 to 1. */
export function shade(value) {
  const rgb = viridis[level(value)];
  const [r, g, b] = rgb.map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4; // WCAG 2.2
  });
  const bright = 0.2126 * r + 0.7152 * g + 0.0722 * b;
  return { background: `rgb(${rgb.join(" ")})`, text: bright > 0.179 ? "#000000" : "#ffffff" };
}

/**
 * The bilinear value of a grid at (x, y), in cells; the centre of the first cell is at 0.5.
 * null where no cell around has a value.
 */
function valueAt(grid, x, y) {
  const rows = grid.length;
  const columns = grid[0].length;
  const left = Math.floor(x - 0.5);
  const top = Math.floor(y - 0.5);
  let sum = 0;
  let weights = 0;
  for (const row of [top, top + 1]) {
    for (const column of [left, left + 1]) {
      const value = grid[Math.max(0, Math.min(rows - 1, row))][Math.max(0, Math.min(columns - 1, column))];
      if (value === null) continue;
      const weight = (1 - Math.abs(x - 0.5 - column)) * (1 - Math.abs(y - 0.5 - row));
      sum += weight * value;
      weights += weight;
    }
  }
  return weights > 1e-6 ? sum / weights : null;
}

/** A grid as a canvas of width x height: its values are interpolated, then coloured. */
export function drawGrid(grid, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width));
  canvas.height = Math.max(1, Math.round(height));
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  let at = 0;
  for (let y = 0; y < canvas.height; y += 1) {
    for (let x = 0; x < canvas.width; x += 1, at += 4) {
      const value = valueAt(grid, ((x + 0.5) / canvas.width) * grid[0].length, ((y + 0.5) / canvas.height) * grid.length);
      if (value === null) continue; // stays transparent: the model did not see it
      pixels.data.set(inferno[level(value)], at);
      pixels.data[at + 3] = 255;
    }
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** The colour bar of a map, with texts at both ends. */
export function colourBar(low, high) {
  const canvas = document.createElement("canvas");
  canvas.width = 256;
  canvas.height = 1;
  const context = canvas.getContext("2d");
  inferno.forEach((rgb, x) => {
    context.fillStyle = `rgb(${rgb.join(" ")})`;
    context.fillRect(x, 0, 1, 1);
  });
  canvas.setAttribute("aria-hidden", "true");
  const bar = document.createElement("div");
  bar.className = "scale";
  bar.append(low, canvas, high);
  return bar;
}
