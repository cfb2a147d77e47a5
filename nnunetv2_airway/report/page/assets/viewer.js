"use strict";

/** Unpack what scene.py has packed: base64, gzip, the low bytes of all numbers, then the high ones. */
async function unpack({ bytes, data }) {
  const packed = Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const count = planes.length / bytes;
  const numbers = new Uint32Array(count);
  for (let plane = 0; plane < bytes; plane++) {
    for (let k = 0; k < count; k++) numbers[k] |= planes[plane * count + k] << (8 * plane);
  }
  return numbers;
}

/** Unpack a surface: positions in mm, corners of triangles, and what is known of each vertex. */
async function unpackMesh(packed) {
  const [differences, ago] = await Promise.all([unpack(packed.vertices), unpack(packed.triangles)]);
  const positions = new Float32Array(differences.length);
  const place = [0, 0, 0];
  for (let k = 0; k < differences.length; k++) {
    place[k % 3] = (place[k % 3] + differences[k]) & 0xffff;
    positions[k] = packed.low[k % 3] + packed.step * place[k % 3];
  }
  const triangles = new Uint32Array(ago.length);
  let fresh = 0;
  for (let k = 0; k < ago.length; k++) triangles[k] = ago[k] === 0 ? fresh++ : fresh - ago[k];
  return { positions, triangles };
}

/** The tree in three dimensions: drawn when something has changed, turned by pointer, touch or keys. */
class Viewer {
  constructor(canvas, onPick) {
    this.canvas = canvas;
    this.onPick = onPick;
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias: true, alpha: true });
    this.renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
    this.scene = new THREE.Scene();
    this.camera = new THREE.OrthographicCamera(-1, 1, 1, -1, 0.1, 5000);
    this.camera.up.set(0, 0, 1);
    const lamp = new THREE.DirectionalLight(0xffffff, 2.2);
    lamp.position.set(0.4, 0.6, 1);
    this.camera.add(lamp);
    this.scene.add(this.camera, new THREE.HemisphereLight(0xffffff, 0x999999, 1.4));
    this.controls = new THREE.OrbitControls(this.camera, canvas);
    this.controls.addEventListener("change", () => this.draw());
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.listen();
  }

  /** Show surfaces: [{positions, triangles}]; the first can be picked. */
  show(meshes) {
    for (const mesh of this.meshes ?? []) {
      mesh.geometry.dispose();
      mesh.material.dispose();
      this.scene.remove(mesh);
    }
    this.meshes = meshes.map(({ positions, triangles }) => {
      const geometry = new THREE.BufferGeometry();
      geometry.setAttribute("position", new THREE.BufferAttribute(positions, 3));
      geometry.setAttribute("color", new THREE.BufferAttribute(new Float32Array(positions.length), 3));
      geometry.setIndex(new THREE.BufferAttribute(triangles, 1));
      geometry.computeVertexNormals();
      geometry.computeBoundingBox();
      const material = new THREE.MeshLambertMaterial({ vertexColors: true, side: THREE.DoubleSide });
      const mesh = new THREE.Mesh(geometry, material);
      this.scene.add(mesh);
      return mesh;
    });
    this.reset();
  }

  /** Colour a surface: the colour of each vertex, as CSS writes it, and which triangles to draw. */
  paint(index, colours, triangles) {
    const { geometry } = this.meshes[index];
    const known = new Map();
    const target = geometry.attributes.color;
    colours.forEach((name, k) => {
      if (!known.has(name)) known.set(name, new THREE.Color(name));
      const { r, g, b } = known.get(name);
      target.setXYZ(k, r, g, b);
    });
    target.needsUpdate = true;
    geometry.setIndex(new THREE.BufferAttribute(triangles, 1));
    this.draw();
  }

  /** Look from the front at all of the first surface, or at the second where that is empty. */
  reset() {
    const box = this.meshes.map((mesh) => mesh.geometry.boundingBox).find((each) => !each.isEmpty());
    this.middle = box ? box.getCenter(new THREE.Vector3()) : new THREE.Vector3();
    this.extent = box ? box.getSize(new THREE.Vector3()) : new THREE.Vector3(1, 1, 1);
    this.controls.target.copy(this.middle);
    this.camera.position.copy(this.middle).add(new THREE.Vector3(0, -1500, 0));
    this.camera.zoom = 1;
    this.resize();
    this.controls.update();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !this.extent) return;
    this.renderer.setSize(width, height, false);
    const { x, y, z } = this.extent;
    const half = 0.54 * Math.max(z, (Math.hypot(x, y) * height) / width);
    Object.assign(this.camera, { top: half, bottom: -half, right: (half * width) / height, left: (-half * width) / height });
    this.camera.updateProjectionMatrix();
    this.draw();
  }

  draw() {
    this.pending ??= requestAnimationFrame(() => {
      this.pending = null;
      this.renderer.render(this.scene, this.camera);
    });
  }

  /** Turn by angles in degrees: around the body's axis, and over the head. */
  turn(around, over) {
    const swap = (vector) => vector.set(vector.x, vector.z, -vector.y); // spherical coordinates count from y
    const offset = swap(this.camera.position.clone().sub(this.controls.target));
    const angles = new THREE.Spherical().setFromVector3(offset);
    angles.theta += (around * Math.PI) / 180;
    angles.phi += (over * Math.PI) / 180;
    angles.makeSafe();
    offset.setFromSpherical(angles);
    this.camera.position.copy(this.controls.target).add(new THREE.Vector3(offset.x, -offset.z, offset.y));
    this.controls.update();
    this.draw();
  }

  zoom(factor) {
    this.camera.zoom = Math.min(Math.max(this.camera.zoom * factor, 0.5), 40);
    this.camera.updateProjectionMatrix();
    this.draw();
  }

  /** Whether less than all of the tree is in view. */
  isNear() {
    return this.camera.zoom > 1.5;
  }

  /** Bring a place into the middle. */
  centre(place) {
    const move = new THREE.Vector3(...place).sub(this.controls.target);
    this.controls.target.add(move);
    this.camera.position.add(move);
    this.controls.update();
    this.draw();
  }

  listen() {
    let down = null;
    this.canvas.addEventListener("pointerdown", (event) => (down = [event.clientX, event.clientY]));
    this.canvas.addEventListener("pointerup", (event) => {
      if (down && Math.hypot(event.clientX - down[0], event.clientY - down[1]) < 5) this.pick(event);
      down = null;
    });
    const keys = {
      ArrowLeft: () => this.turn(-10, 0), ArrowRight: () => this.turn(10, 0),
      ArrowUp: () => this.turn(0, -10), ArrowDown: () => this.turn(0, 10),
      "+": () => this.zoom(1.25), "=": () => this.zoom(1.25), "-": () => this.zoom(0.8), 0: () => this.reset(),
    };
    this.canvas.addEventListener("keydown", (event) => {
      if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      keys[event.key]();
    });
  }

  pick(event) {
    const frame = this.canvas.getBoundingClientRect();
    const pointer = new THREE.Vector2(
      (2 * (event.clientX - frame.left)) / frame.width - 1,
      1 - (2 * (event.clientY - frame.top)) / frame.height,
    );
    const ray = new THREE.Raycaster();
    ray.setFromCamera(pointer, this.camera);
    const [hit] = ray.intersectObjects(this.meshes ?? [], false);
    if (hit) this.onPick(this.meshes.indexOf(hit.object), hit.face.a, hit.point.toArray());
  }
}
