// A board to draw on: mouse, pen, finger, image files, the clipboard, the camera, and the arrow keys.

import { element } from "./format.js";

const SIDE = 168, WIDTH = 8, LARGEST = 700000, SHRUNK = 512;

export class Pad {
  constructor(holder, { label, onchange, onproblem, files = true, hint = "Draw here, or drop an image" }) {
    this.onchange = onchange;
    this.onproblem = onproblem;
    this.strokes = [];
    this.image = null;
    this.file = null;
    this.pen = { x: SIDE / 2, y: SIDE / 2, down: false };
    this.canvas = element("canvas", { width: SIDE, height: SIDE, tabindex: "0", role: "img", "aria-label": `${label}. Draw with the pointer; or move with the arrow keys, space puts the pen down or lifts it.` });
    this.context = this.canvas.getContext("2d");
    this.empty = element("div", { class: "empty", "aria-hidden": "true" }, hint);
    this.input = element("input", { type: "file", accept: "image/*", class: "hidden-file" });
    this.undoButton = element("button", { type: "button", onclick: () => this.undo() }, "Undo");
    this.root = element("div", { class: "pad" }, this.canvas, this.empty,
      element("div", { class: "tools" }, this.undoButton,
        element("button", { type: "button", onclick: () => this.clear() }, "Clear"),
        ...(files ? [element("label", { class: "button" }, "Image…", this.input), element("button", { type: "button", onclick: async () => { const shot = await takePicture(); if (shot) this.show(shot); } }, "Camera")] : [])));
    holder.append(this.root);
    this.listen();
    this.paint();
  }

  get isEmpty() { return !this.image && !this.strokes.length; }

  listen() {
    const at = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [(event.clientX - box.left) * SIDE / box.width, (event.clientY - box.top) * SIDE / box.height];
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      if (event.button > 0) return;
      this.canvas.setPointerCapture(event.pointerId);
      this.strokes.push([at(event)]);
      this.drawing = true;
      this.changed();
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!this.drawing) return;
      for (const each of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) this.strokes.at(-1).push(at(each));
      this.changed();
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) this.canvas.addEventListener(end, () => { this.drawing = false; });
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("blur", () => { this.pen.down = false; this.paint(); });
    this.canvas.addEventListener("focus", () => this.paint());
    this.input.addEventListener("change", () => { if (this.input.files[0]) this.show(this.input.files[0]); this.input.value = ""; });
    takesFiles(this.root, ([first]) => this.show(first));
  }

  key(event) {
    const steps = { ArrowLeft: [-6, 0], ArrowRight: [6, 0], ArrowUp: [0, -6], ArrowDown: [0, 6] };
    if (steps[event.key]) {
      this.pen.x = Math.min(SIDE, Math.max(0, this.pen.x + steps[event.key][0]));
      this.pen.y = Math.min(SIDE, Math.max(0, this.pen.y + steps[event.key][1]));
      if (this.pen.down) this.strokes.at(-1).push([this.pen.x, this.pen.y]);
      this.pen.down ? this.changed() : this.paint();
    } else if (event.key === " ") {
      this.pen.down = !this.pen.down;
      if (this.pen.down) this.strokes.push([[this.pen.x, this.pen.y]]);
      this.changed();
    } else if (event.key === "Backspace" || (event.key === "z" && (event.ctrlKey || event.metaKey))) {
      this.undo();
    } else return;
    event.preventDefault();
  }

  undo() {
    if (this.strokes.length) this.strokes.pop();
    else { this.image = null; this.file = null; }
    this.changed();
  }

  clear() { this.strokes = []; this.image = null; this.file = null; this.changed(); }

  // An image file or blob; what the browser cannot show goes to the server, which says what is wrong with it.
  async show(file) {
    try {
      this.image = await createImageBitmap(file);
      this.file = await shrunk(file, this.image);
    } catch {
      this.onproblem?.(file);
      return;
    }
    this.strokes = [];
    this.changed();
  }

  changed() { this.paint(); this.onchange?.(); }

  paint(cursor = document.activeElement === this.canvas && this.canvas.matches(":focus-visible")) {
    const c = this.context;
    c.fillStyle = "#fff";
    c.fillRect(0, 0, SIDE, SIDE);
    if (this.image) c.drawImage(this.image, 0, 0, SIDE, SIDE);
    c.lineWidth = WIDTH; c.lineCap = c.lineJoin = "round"; c.strokeStyle = c.fillStyle = "#000";
    for (const stroke of this.strokes) {
      c.beginPath();
      c.moveTo(...stroke[0]);
      for (const point of stroke) c.lineTo(...point);
      c.stroke();
    }
    this.empty.hidden = !this.isEmpty;
    if (cursor) {
      c.lineWidth = 2; c.strokeStyle = this.pen.down ? "#b83a00" : "#0b6bb3";
      c.beginPath(); c.arc(this.pen.x, this.pen.y, 6, 0, 7); c.stroke();
    }
  }

  // The image as bytes: a file as it is, a drawing as a PNG.
  async bytes() {
    if (this.file && !this.strokes.length) return this.file;
    this.paint(false);
    const made = new Promise((done) => this.canvas.toBlob(done, "image/png"));
    this.paint();
    return made;
  }
}

// Large photographs are made smaller here; the model sees a few dozen pixels of them anyway.
async function shrunk(file, image) {
  if (file.size <= LARGEST) return file;
  const scale = SHRUNK / Math.max(image.width, image.height, SHRUNK);
  const canvas = element("canvas", { width: Math.max(1, Math.round(image.width * scale)), height: Math.max(1, Math.round(image.height * scale)) });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

export async function asBytes(file) {
  if (file.size <= LARGEST) return file;
  try { return await shrunk(file, await createImageBitmap(file)); } catch { return file; }
}

export function takesFiles(target, use) {
  const over = (on) => (event) => { event.preventDefault(); event.stopPropagation(); target.classList.toggle("over", on); };
  target.addEventListener("dragover", over(true));
  target.addEventListener("dragleave", over(false));
  target.addEventListener("drop", (event) => {
    over(false)(event);
    if (event.dataTransfer.files.length) use([...event.dataTransfer.files]);
  });
  target.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) { event.preventDefault(); event.stopPropagation(); use(files); }
  });
}

export async function takePicture() {
  const dialog = document.getElementById("camera"), video = dialog.querySelector("video"), problem = dialog.querySelector(".problem");
  const shoot = dialog.querySelector("[data-do=shoot]");
  problem.hidden = true;
  shoot.disabled = true;
  dialog.showModal();
  const taken = new Promise((done) => {
    dialog.onclose = () => done(null);
    dialog.onclick = (event) => {
      const wish = event.target.dataset.do;
      if (wish === "close") done(null);
      if (wish === "shoot") {
        const side = Math.min(video.videoWidth, video.videoHeight), canvas = element("canvas", { width: 256, height: 256 });
        canvas.getContext("2d").drawImage(video, (video.videoWidth - side) / 2, (video.videoHeight - side) / 2, side, side, 0, 0, 256, 256);
        canvas.toBlob(done, "image/png");
      }
    };
  });
  const started = navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 640 } });
  started.then(async (stream) => {
    if (!dialog.open) return;
    video.srcObject = stream;
    await video.play();
    shoot.disabled = false;
  }).catch((error) => {
    problem.textContent = error.name === "NotAllowedError" ? "The browser may not use the camera: allow it for this page." : "No camera was found.";
    problem.hidden = false;
  });
  const shot = await taken;
  dialog.close();
  video.srcObject = null;
  started.then((stream) => stream.getTracks().forEach((track) => track.stop()), () => {});
  return shot;
}
