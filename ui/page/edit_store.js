/* What the browser keeps of the Edit tab: the masks that were drawn, by the image that they are of, so
   that a reload, another tab and a closed laptop lose none. */
(() => {
  'use strict';
  const MASKS = 'salon-masks', IMAGE = 'salon-edit-image';
  const MOST = 12; // images whose masks are kept
  const read = () => {
    try {
      const kept = JSON.parse(localStorage.getItem(MASKS));
      return Array.isArray(kept) ? kept : [];
    } catch { return []; }
  };
  // An operation as JSON; a mask that was found becomes the address of a PNG.
  const packed = (op) => {
    if (op.image) return {image: op.image.toDataURL('image/png')};
    const round = (n) => Math.round(10 * n) / 10;
    return op.points ? {...op, points: op.points.map((point) => point.map(round))} : op;
  };
  const unpacked = async (op) => {
    if (!op.image) return op;
    const image = new Image();
    image.src = op.image;
    await image.decode();
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    canvas.getContext('2d').drawImage(image, 0, 0);
    return {image: canvas};
  };
  // The last ones are kept; where the browser's room ends, fewer.
  const save = (name, ops) => {
    let kept = read().filter((entry) => entry.name !== name);
    if (ops.length) kept.push({name, ops: ops.map(packed)});
    for (kept = kept.slice(-MOST); ; kept.shift()) {
      try {
        localStorage.setItem(MASKS, JSON.stringify(kept));
        return;
      } catch { if (!kept.length) return; }
    }
  };
  const load = async (name) => {
    try {
      const found = read().find((entry) => entry.name === name);
      return await Promise.all((found?.ops ?? []).map(unpacked));
    } catch { return []; } // kept by another version of this page
  };
  // Whether the fields of the tab are about this image, as they were kept.
  const isLast = (name) => localStorage.getItem(IMAGE) === name;
  const setLast = (name) => localStorage.setItem(IMAGE, name);
  window.salonEditStore = {save, load, isLast, setLast};
})();
