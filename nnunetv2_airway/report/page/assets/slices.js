"use strict";

/** Across and down (or up) of each view, as axes (x to the left, y to the back, z to the head), and the axis through. */
const PLANES = {
  axial: { across: 0, down: 1, through: 2, up: false },
  coronal: { across: 0, down: 2, through: 1, up: true },
  sagittal: { across: 1, down: 2, through: 0, up: true },
};

/** Decode the CT of a case, all planes in one picture, into its voxels. */
async function unpackCT({ size, low, side, across, picture }) {
  const image = new Image();
  image.src = picture;
  await image.decode();
  const sheet = new OffscreenCanvas(image.width, image.height).getContext("2d", { willReadFrequently: true });
  sheet.drawImage(image, 0, 0);
  const { data } = sheet.getImageData(0, 0, image.width, image.height);
  const [columns, rows, planes] = size;
  const grey = new Uint8Array(columns * rows * planes);
  for (let plane = 0, k = 0; plane < planes; plane++) {
    const top = Math.floor(plane / across) * rows;
    const left = (plane % across) * columns;
    for (let row = 0; row < rows; row++) {
      let from = 4 * ((top + row) * image.width + left);
      for (let column = 0; column < columns; column++, from += 4) grey[k++] = data[from];
    }
  }
  return { size, low, side, grey };
}

/** Cut a surface with a plane: the ends of lines [across, down, across, down, ...] in mm. */
function outline({ positions, triangles }, { across, down, through }, level) {
  const ends = [];
  for (let k = 0; k < triangles.length; k += 3) {
    for (let edge = 0; edge < 3; edge++) {
      const a = 3 * triangles[k + edge];
      const b = 3 * triangles[k + ((edge + 1) % 3)];
      const above = positions[a + through] - level;
      const below = positions[b + through] - level;
      if (above < 0 === below < 0) continue;
      const share = above / (above - below);
      for (const axis of [across, down]) ends.push(positions[a + axis] + share * (positions[b + axis] - positions[a + axis]));
    }
  }
  return ends;
}

/** Three planes of the CT through one place, with the outlines of surfaces. */
class Slices {
  constructor(section) {
    this.views = Object.entries(PLANES).map(([name, plane]) => {
      const figure = section.querySelector(`[data-plane=${name}]`);
      const view = { name, plane, canvas: figure.querySelector("canvas"), slider: figure.querySelector("input") };
      view.slider.addEventListener("input", () => this.move(plane.through, Number(view.slider.value)));
      view.canvas.addEventListener("click", (event) => this.click(view, event));
      return view;
    });
    this.field = section.querySelector("#field");
    this.field.addEventListener("change", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(section);
  }

  /** Show a CT as unpackCT gives it, with outlines [{mesh, colour, dash, width}]. */
  show(ct, outlines) {
    Object.assign(this, { ct, outlines });
    if (!ct) return;
    for (const { plane, slider } of this.views) {
      const axis = plane.through;
      const [least, most] = [ct.low[axis], ct.low[axis] + ct.side * (ct.size[axis] - 1)];
      Object.assign(slider, { min: least.toFixed(1), max: most.toFixed(1), step: 0.5 });
    }
    this.go(ct.low.map((low, axis) => low + (ct.side * ct.size[axis]) / 2));
  }

  /** Go to a place in mm. */
  go(place) {
    this.place = [...place];
    this.draw();
  }

  move(axis, value) {
    this.place[axis] = value;
    this.draw();
  }

  click(view, event) {
    const frame = view.canvas.getBoundingClientRect();
    const [left, top] = [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
    const { across, down, up } = view.plane;
    const side = this.side();
    const place = [...this.place];
    place[across] = this.corner(across, side) + left * side;
    place[down] = this.corner(down, side) + (up ? 1 - top : top) * side;
    this.go(place);
  }

  /** Of the field in mm: chosen, or all there is. */
  side() {
    return Number(this.field.value) || Math.max(...this.ct.size) * this.ct.side;
  }

  corner(axis, side) {
    const whole = this.ct.low[axis] + (this.ct.size[axis] * this.ct.side) / 2;
    return (Number(this.field.value) ? this.place[axis] : whole) - side / 2;
  }

  draw() {
    if (!this.ct || !this.place) return;
    for (const view of this.views) this.drawView(view);
  }

  drawView({ name, plane, canvas, slider }) {
    const { across, down, through, up } = plane;
    const pixels = Math.round(canvas.clientWidth * Math.min(devicePixelRatio, 2));
    if (!pixels) return;
    canvas.width = canvas.height = pixels;
    const pen = canvas.getContext("2d");
    const side = this.side();
    const scale = pixels / side;
    const [left, top] = [this.corner(across, side), this.corner(down, side)];
    pen.fillRect(0, 0, pixels, pixels);
    pen.save();
    if (up) pen.setTransform(1, 0, 0, -1, 0, pixels);
    const { low, side: voxel } = this.ct;
    const at = (axis, corner) => (low[axis] - voxel / 2 - corner) * scale;
    const plate = this.plate(plane);
    pen.drawImage(plate, at(across, left), at(down, top), plate.width * voxel * scale, plate.height * voxel * scale);
    for (const { mesh, colour, dash, width } of this.outlines) {
      const ends = outline(mesh, plane, this.place[through]);
      pen.strokeStyle = colour;
      pen.setLineDash(dash ?? []);
      pen.lineWidth = (width ?? 1) * Math.max(1.25, pixels / 320);
      pen.beginPath();
      for (let k = 0; k + 3 < ends.length; k += 4) {
        pen.moveTo((ends[k] - left) * scale, (ends[k + 1] - top) * scale);
        pen.lineTo((ends[k + 2] - left) * scale, (ends[k + 3] - top) * scale);
      }
      pen.stroke();
    }
    pen.restore();
    slider.value = this.place[through];
    canvas.setAttribute("aria-label", `${name} plane of the CT at ${this.place[through].toFixed(0)} mm, with outlines`);
  }

  /** A plane of the CT as a canvas, a voxel a pixel. */
  plate({ across, down, through }) {
    const { size, low, side, grey } = this.ct;
    const steps = [1, size[0], size[0] * size[1]];
    const layer = Math.round((this.place[through] - low[through]) / side);
    const inside = Math.min(Math.max(layer, 0), size[through] - 1);
    const picture = new ImageData(size[across], size[down]);
    for (let row = 0, to = 0; row < size[down]; row++) {
      let from = inside * steps[through] + row * steps[down];
      for (let column = 0; column < size[across]; column++, from += steps[across], to += 4) {
        picture.data.fill(grey[from], to, to + 3);
        picture.data[to + 3] = 255;
      }
    }
    const plate = new OffscreenCanvas(picture.width, picture.height);
    plate.getContext("2d").putImageData(picture, 0, 0);
    return plate;
  }
}
