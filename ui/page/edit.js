/* The Edit tab in the browser: the image with its mask, points, boxes and margins. What is drawn is
   kept as a list of operations, so that each can be undone; the server gets it as a PNG. */
(() => {
  'use strict';
  const {$, $$, type} = window.salon, store = window.salonEditStore;
  const TINT = '#e8590c';
  const LONGEST = 2048; // pixels of a mask
  const LARGEST = 1900000; // characters that the server reads
  const SNAP = 8; // pixels, by which edges are dragged
  const SIDES = ['left', 'right', 'top', 'bottom'];
  const drawn = new Map(); // operations by the name of an image
  let picture = null, tool = 'brush', stroke = null, touched = false, writing = false, armed = null, laid = '';

  const board = () => $('#edit-board .board');
  const surface = () => $('#edit-board canvas');
  const field = (name) => $(`#edit-${name} input, #edit-${name} textarea`);
  const value = (name) => field(name)?.value.trim() ?? '';
  const set = (it, text) => { // which is not what a person types
    if (!it || it.value === text) return;
    writing = true;
    type(it, text);
    writing = false;
  };
  const strengthField = () => $('#edit-strength input[type=number]') ?? field('strength');
  const write = (name, text) => set(field(name), text);
  const inverted = () => field('invert_mask')?.checked ?? false;
  const margins = () => SIDES.map((side) => Math.max(0, Math.round(Number(value(side)) || 0)));
  const ops = () => drawn.get(picture?.name) ?? [];
  const keepOps = (list) => { drawn.set(picture.name, list); store.save(picture.name, list); redraw(); };
  const asked = () => ['mask_text', 'mask_point', 'mask_box'].some((name) => value(name));

  // Drawing of masks: what is opaque is masked.
  const paint = (pen, op) => {
    pen.globalCompositeOperation = op.erases ? 'destination-out' : 'source-over';
    pen.fillStyle = pen.strokeStyle = TINT;
    if (op.image) pen.drawImage(op.image, 0, 0, pen.canvas.width, pen.canvas.height);
    else if (op.box) pen.fillRect(op.box[0], op.box[1], op.box[2] - op.box[0], op.box[3] - op.box[1]);
    else {
      const [[x, y]] = op.points;
      pen.lineCap = pen.lineJoin = 'round';
      pen.lineWidth = op.width;
      pen.beginPath();
      pen.arc(x, y, op.width / 2, 0, 7);
      pen.fill();
      pen.beginPath();
      op.points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
      pen.stroke();
    }
  };
  const redraw = () => {
    const canvas = surface();
    if (!canvas || !picture) return;
    const pen = canvas.getContext('2d', {willReadFrequently: true});
    pen.globalCompositeOperation = 'source-over';
    pen.clearRect(0, 0, canvas.width, canvas.height);
    for (const op of stroke ? [...ops(), stroke] : ops()) paint(pen, op);
    if (inverted() && (ops().length || stroke)) {
      pen.globalCompositeOperation = 'xor';
      pen.fillStyle = TINT;
      pen.fillRect(0, 0, canvas.width, canvas.height);
    }
    if (!stroke) tell();
  };
  const share = () => {
    const canvas = surface();
    const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let i = 3; i < data.length; i += 4) count += data[i] >= 128;
    return count / (data.length / 4);
  };
  const tell = () => {
    const [left, right, top, bottom] = margins();
    const [width, height] = [picture.width + left + right, picture.height + top + bottom];
    const grows = width !== picture.width || height !== picture.height;
    const parts = [`${picture.width} × ${picture.height} pixels`];
    if (grows) parts.push(`extended to ${width} × ${height}`);
    const part = ops().length ? share() : 0;
    if (part) parts.push(`${part < 0.01 ? 'less than 1' : Math.round(100 * part)} % drawn anew`);
    else if (!grows && !asked()) parts.push('no mask: all of it is drawn anew, as far as the strength says');
    $('.board-told').textContent = parts.join(', ');
    if (!touched && field('strength')) {
      const wanted = part || grows || asked() ? board().dataset.masked : board().dataset.strength;
      const box = strengthField();
      if (Number(box.value) !== Number(wanted)) set(box, String(Number(wanted)));
    }
  };
  // The mask as the server takes it: white on black, without the inversion, which is a setting.
  const mask = () => {
    if (!picture || !ops().length) return '';
    let {width, height} = surface();
    const whole = document.createElement('canvas');
    [whole.width, whole.height] = [width, height];
    const pen = whole.getContext('2d');
    ops().forEach((op) => paint(pen, op));
    const pixels = pen.getImageData(0, 0, width, height);
    let any = false;
    for (let i = 0; i < pixels.data.length; i += 4) {
      const on = pixels.data[i + 3] >= 128;
      any ||= on;
      pixels.data.fill(on ? 255 : 0, i, i + 3);
      pixels.data[i + 3] = 255;
    }
    pen.putImageData(pixels, 0, 0);
    let data = whole.toDataURL('image/png'), smaller = whole;
    while (data.length > LARGEST) {
      const next = document.createElement('canvas');
      [next.width, next.height] = [width, height] = [width >> 1, height >> 1];
      next.getContext('2d').drawImage(smaller, 0, 0, width, height);
      [smaller, data] = [next, next.toDataURL('image/png')];
    }
    return any ? data : '';
  };

  // Points and boxes are what the fields say, wherever that comes from.
  const numbers = (text) => text.split(/\s([+-])\s/).map((part) => part.trim());
  const marks = () => {
    const svg = $('#edit-board .marks');
    if (!svg || !picture) return;
    const {width, height} = picture, radius = Math.max(width, height) / 70;
    svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    const shapes = [];
    const each = (name, draw) => {
      let sign = '+';
      for (const part of numbers(value(name))) {
        if (part === '+' || part === '-') sign = part;
        else if (/^[\d\s,]+$/.test(part)) shapes.push(draw(part.split(',').map(Number), sign));
      }
    };
    const known = (list, draw) => // and not while the last ones are still being typed
      (list.length < draw.length || list.some(Number.isNaN) ? '' : draw(...list));
    each('mask_point', (xy, sign) => known(xy, (x, y) =>
      `<circle class="${sign === '+' ? 'on' : 'beside'}" cx="${x}" cy="${y}" r="${radius}"/>`));
    each('mask_box', (box, sign) => known(box, (l, t, r, b) =>
      `<rect class="${sign === '+' ? 'on' : 'beside'}" x="${l}" y="${t}" width="${Math.max(0, r - l)}" height="${Math.max(0, b - t)}"/>`));
    if (stroke?.box) shapes.push(known(stroke.box, (l, t, r, b) =>
      `<rect class="on" x="${Math.min(l, r)}" y="${Math.min(t, b)}" width="${Math.abs(r - l)}" height="${Math.abs(b - t)}"/>`));
    svg.innerHTML = shapes.join('');
  };
  const add = (name, part, sign = '+') => {
    const before = value(name);
    write(name, before ? `${before} ${sign} ${part}` : part);
    marks();
    setTimeout(() => $('#edit-find').click(), 60); // once gradio knows what the field holds
  };

  // The stage is as large as the image with its margins.
  const lay = () => {
    const stage = $('#edit-board .stage');
    if (!stage || !picture) return;
    const [left, right, top, bottom] = margins();
    laid = String([left, right, top, bottom]);
    const [width, height] = [picture.width + left + right, picture.height + top + bottom];
    stage.style.setProperty('--ratio', width / height);
    const photo = $('.photo', stage);
    photo.style.left = `${(100 * left) / width}%`;
    photo.style.top = `${(100 * top) / height}%`;
    photo.style.width = `${(100 * picture.width) / width}%`;
    photo.style.height = `${(100 * picture.height) / height}%`;
    marks();
    redraw();
  };
  const load = (data) => {
    picture = {name: data.picture, source: data.source, width: Number(data.width), height: Number(data.height)};
    const canvas = surface(), scale = Math.min(1, LONGEST / Math.max(picture.width, picture.height));
    canvas.width = Math.max(1, Math.round(picture.width * scale));
    canvas.height = Math.max(1, Math.round(picture.height * scale));
    $('.photo img').src = picture.source;
    const {name} = picture, isNew = !store.isLast(name);
    if (isNew) { // what the fields say is about another image
      SIDES.forEach((side) => write(side, ''));
      ['mask_text', 'mask_point', 'mask_box'].forEach((field) => write(field, ''));
    }
    store.setLast(name);
    if (!drawn.has(name)) {
      store.load(name).then((list) => {
        if (!drawn.has(name)) drawn.set(name, list);
        if (picture.name === name) redraw();
      });
    }
    stroke = null;
    const {strength, masked} = board().dataset, chosen = strengthField();
    touched = !isNew && chosen && ![strength, masked].map(Number).includes(Number(chosen.value));
    armed = null;
    show('picture');
    lay();
  };
  // A mask that the server found takes the place of the last one that it found.
  const take = async (place) => {
    const image = new Image();
    image.src = place.dataset.mask;
    await image.decode();
    if (place.dataset.for !== picture?.name) return;
    const tinted = document.createElement('canvas');
    [tinted.width, tinted.height] = [image.naturalWidth, image.naturalHeight];
    const pen = tinted.getContext('2d');
    pen.drawImage(image, 0, 0);
    const pixels = pen.getImageData(0, 0, tinted.width, tinted.height);
    const tint = [1, 3, 5].map((at) => parseInt(TINT.slice(at, at + 2), 16));
    for (let i = 0; i < pixels.data.length; i += 4) {
      pixels.data[i + 3] = pixels.data[i];
      pixels.data.set(tint, i);
    }
    pen.putImageData(pixels, 0, 0);
    keepOps([...ops().filter((op) => !op.image), {image: tinted}]);
    show('picture');
  };

  // What is shown: the image with its mask, or what came of it.
  const show = (mode) => {
    const workspace = $('#edit-workspace');
    if (!workspace) return;
    workspace.dataset.mode = mode;
    $$('#edit-modes [data-mode]').forEach((button) =>
      button.setAttribute('aria-pressed', String(button.dataset.mode === mode)));
  };
  const latest = () => $('#edit-shown [data-picture]')?.dataset.picture + ($('#edit-workspace .view .hero')?.dataset.open ?? '');

  // Pointers.
  const at = (event) => {
    const box = surface().getBoundingClientRect();
    const inside = (share, size) => Math.min(size, Math.max(0, share * size));
    return [inside((event.clientX - box.left) / box.width, surface().width),
      inside((event.clientY - box.top) / box.height, surface().height)];
  };
  const scale = () => picture.width / surface().width;
  const whole = (list) => list.map((n) => Math.round(n * scale()));
  const brush = () => (Number($('[data-size]').value) / 100) * Math.max(surface().width, surface().height);
  const down = (event) => {
    if (event.button || !picture) return;
    event.preventDefault();
    event.target.setPointerCapture(event.pointerId);
    const point = at(event);
    if (tool === 'on' || tool === 'beside') {
      const edge = (n, size) => Math.min(n, size - 1);
      const [x, y] = whole(point);
      add('mask_point', `${edge(x, picture.width)},${edge(y, picture.height)}`, tool === 'on' ? '+' : '-');
      return;
    }
    stroke = tool === 'box' ? {box: [...whole(point), ...whole(point)], start: point}
      : {points: [point], width: brush(), erases: tool === 'eraser'};
    if (!stroke.box) redraw();
  };
  const move = (event) => {
    tip(event);
    if (!stroke) return;
    const events = event.getCoalescedEvents?.() ?? [];
    if (stroke.box) stroke.box = [...stroke.box.slice(0, 2), ...whole(at(event))];
    else (events.length ? events : [event]).forEach((each) => stroke.points.push(at(each)));
    if (stroke.box) marks(); else redraw();
  };
  const up = () => {
    if (!stroke) return;
    const op = stroke;
    stroke = null;
    if (!op.box) { keepOps([...ops(), op]); return; }
    const [x, y, u, v] = op.box;
    const box = [Math.min(x, u), Math.min(y, v), Math.max(x, u), Math.max(y, v)];
    marks();
    if (box[0] === box[2] || box[1] === box[3]) return;
    if (board().dataset.clicks === 'true') add('mask_box', box.join(','));
    else keepOps([...ops(), {box: box.map((n) => n / scale())}]); // what is framed is all that is known
  };
  const tip = (event) => {
    const mark = $('.brush-tip'), isBrush = tool === 'brush' || tool === 'eraser';
    mark.hidden = !isBrush || event.pointerType === 'touch';
    if (mark.hidden) return;
    const stage = $('#edit-board .stage').getBoundingClientRect();
    const size = brush() * surface().getBoundingClientRect().width / surface().width;
    mark.style.cssText = `width:${size}px;height:${size}px;left:${event.clientX - stage.left - size / 2}px;top:${event.clientY - stage.top - size / 2}px`;
  };
  const drag = (event) => {
    const side = event.target.dataset.edge, first = margins()[SIDES.indexOf(side)];
    const step = picture.width / $('.photo').getBoundingClientRect().width; // pixels of the image
    const sign = side === 'left' || side === 'top' ? -1 : 1;
    const begin = side === 'left' || side === 'right' ? event.clientX : event.clientY;
    const target = event.target;
    target.setPointerCapture(event.pointerId);
    const moved = (next) => {
      const now = side === 'left' || side === 'right' ? next.clientX : next.clientY;
      grow(side, first + sign * (now - begin) * step);
    };
    target.addEventListener('pointermove', moved);
    target.addEventListener('pointerup', () => target.removeEventListener('pointermove', moved), {once: true});
  };
  const grow = (side, pixels) => {
    const most = Number(field(side)?.max) || 4096;
    write(side, String(Math.min(most, Math.max(0, Math.round(pixels / SNAP) * SNAP))));
    lay();
  };
  const press = (event) => {
    const side = event.target.dataset?.edge;
    const out = {left: 'ArrowLeft', right: 'ArrowRight', top: 'ArrowUp', bottom: 'ArrowDown'};
    const back = {left: 'ArrowRight', right: 'ArrowLeft', top: 'ArrowDown', bottom: 'ArrowUp'};
    if (side && [out[side], back[side]].includes(event.key)) {
      event.preventDefault();
      grow(side, margins()[SIDES.indexOf(side)] + (event.key === out[side] ? SNAP : -SNAP));
    } else if ((event.ctrlKey || event.metaKey) && event.key === 'z' && isOpen()
      && !event.target.matches('input, textarea')) {
      event.preventDefault();
      keepOps(ops().slice(0, -1));
    }
  };
  const isOpen = () => Boolean(picture && board()?.checkVisibility());
  const send = (file) => {
    const input = $('#edit-file input[type=file]');
    if (!input || !file?.type.startsWith('image/')) return;
    const files = new DataTransfer();
    files.items.add(file);
    input.files = files.files;
    input.dispatchEvent(new Event('change', {bubbles: true}));
  };

  const act = (what) => {
    if (what === 'file') $('#edit-file input[type=file]')?.click();
    if (what === 'undo' && ops().length) keepOps(ops().slice(0, -1));
    if (what === 'clear') {
      ['mask_text', 'mask_point', 'mask_box'].forEach((name) => write(name, ''));
      keepOps([]);
      marks();
    }
  };
  document.addEventListener('click', (event) => {
    const hit = (selector) => event.target.closest?.(selector);
    if (hit('#edit-board button[data-tool]')) {
      tool = hit('[data-tool]').dataset.tool;
      $$('#edit-board button[data-tool]').forEach((button) =>
        button.setAttribute('aria-pressed', String(button.dataset.tool === tool)));
      board().dataset.tool = tool;
    } else if (hit('#edit-board [data-board]')) act(hit('[data-board]').dataset.board);
    else if (hit('#edit-modes [data-mode]')) show(hit('[data-mode]').dataset.mode);
    else if (hit('[data-before]')) {
      const result = $('#edit-workspace .view .hero img');
      if (result && picture) window.salon.slide([picture.source, 'before'], [result.src, 'after']);
    }
  });
  document.addEventListener('pointerdown', (event) => {
    if (event.target.matches?.('#edit-board canvas')) down(event);
    else if (event.target.matches?.('#edit-board [data-edge]') && picture) drag(event);
  });
  document.addEventListener('pointermove', (event) => {
    if (event.target.matches?.('#edit-board canvas')) move(event);
    else { const mark = $('.brush-tip'); if (mark) mark.hidden = true; }
  });
  document.addEventListener('pointerup', up);
  document.addEventListener('pointercancel', up);
  document.addEventListener('keydown', press);
  document.addEventListener('input', (event) => {
    if (!picture || !event.target.closest?.('#edit-controls')) return;
    if (event.target.closest('#edit-strength')) touched ||= !writing;
    else if (event.target.closest('#edit-extend')) lay();
    else if (event.target.closest('#edit-mask')) { marks(); redraw(); }
  });
  document.addEventListener('change', (event) => {
    if (picture && event.target.closest?.('#edit-mask')) redraw();
  });
  document.addEventListener('paste', (event) => {
    if ($('#edit-workspace')?.checkVisibility()) send(event.clipboardData?.files[0]);
  });
  ['dragover', 'drop'].forEach((name) => document.addEventListener(name, (event) => {
    if (!event.target.closest?.('#edit-board')) return;
    event.preventDefault();
    if (name === 'drop') send(event.dataTransfer?.files[0]);
  }));

  const look = () => {
    const place = $('#edit-shown [data-picture]');
    if (place && surface() && place.dataset.picture !== picture?.name) load(place.dataset);
    if (place && surface() && !$('.photo img').src) load(place.dataset); // the tab is shown anew
    if (picture && surface() && laid !== String(margins())) lay(); // fields that the server filled in
    const found = $('#edit-found [data-mask]');
    if (found && found.dataset.seen !== 'yes') { found.dataset.seen = 'yes'; take(found); }
    if (armed !== null && ($('#edit-live img') || armed !== latest())) { armed = null; show('result'); }
  };
  const begun = () => {
    armed = latest();
    if (innerWidth < 640) $('#edit-middle').scrollIntoView(); // on a phone it is above the form
  };
  window.salonEdit = {mask, begun};
  window.salon.watch(look);
})();
