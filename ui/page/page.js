/* What the page does in the browser: who a visitor is, light and dark, the settings drawer, choosing
   and enlarging images, and showing errors at their fields. No libraries, nothing from elsewhere. */
(() => {
  'use strict';
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

  // A visitor is known again after a reload and in another tab.
  if (!/(^|; )salon=/.test(document.cookie)) {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    const id = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
    document.cookie = `salon=${id}; path=/; max-age=31536000; SameSite=Strict`;
  }

  // Light and dark: the system's choice, or the visitor's.
  const THEME = 'salon-theme';
  const isDark = () => document.body.classList.contains('dark');
  const applyTheme = () => {
    const wanted = localStorage.getItem(THEME);
    if (wanted && isDark() !== (wanted === 'dark')) {
      document.body.classList.toggle('dark', wanted === 'dark');
    }
    const button = $('#dark-switch');
    if (button && button.getAttribute('aria-pressed') !== String(isDark())) {
      button.setAttribute('aria-pressed', String(isDark()));
    }
    document.documentElement.style.colorScheme = isDark() ? 'dark' : 'light';
  };

  // The drawer of settings.
  const SETTINGS = 'salon-settings';
  const openSettings = (open) => {
    $('#workspace')?.classList.toggle('open', open);
    localStorage.setItem(SETTINGS, open ? 'open' : '');
    $$('[data-toggle="settings"]').forEach((button) =>
      button.setAttribute('aria-expanded', String(open)));
  };

  const type = (field, value) => {
    const prototype = Object.getPrototypeOf(field);
    Object.getOwnPropertyDescriptor(prototype, 'value').set.call(field, value);
    field.dispatchEvent(new Event('input', {bubbles: true}));
  };

  // A tile that is chosen is large at once; the server then tells what is known of it.
  const choose = (tile) => {
    const view = tile.closest('.view');
    if (!view) return;
    $$('.tile[aria-current]', view).forEach((other) => other.removeAttribute('aria-current'));
    tile.setAttribute('aria-current', 'true');
    const large = $('.picture .hero', view);
    if (large && tile.dataset.whole) {
      $('img', large).src = tile.dataset.whole;
      large.dataset.open = tile.dataset.name;
    }
  };

  // Has an image edited; the server listens, whatever tab is open.
  const edit = (name) => { if (name) document.dispatchEvent(new CustomEvent('salon-edit', {detail: name})); };

  // The lightbox: one image over the whole page. It is within .contain, as all that is styled by
  // width: gradio applies rules of @media nowhere else.
  let box, images = [], place = 0, from = null, zoom = 1;
  const BOX = `
    <form method="dialog" class="lightbox-bar">
      <span class="lightbox-place" aria-live="polite"></span>
      <button type="button" data-box="out" aria-label="Smaller">−</button>
      <button type="button" data-box="in" aria-label="Larger">+</button>
      <button aria-label="Close">✕</button>
    </form>
    <button type="button" data-box="back" aria-label="Previous image">‹</button>
    <div class="lightbox-stage" tabindex="0" aria-label="the image; + and − change its size">
      <img alt=""></div>
    <button type="button" data-box="on" aria-label="Next image">›</button>
    <div class="lightbox-foot">
      <p class="lightbox-about"></p>
      <button type="button" data-box="edit">Edit</button>
      <button type="button" data-box="vary">Variations</button>
      <button type="button" data-box="reuse">Use settings</button>
      <a class="lightbox-save" download>Download</a>
    </div>`;
  const makeBox = () => {
    box = document.createElement('dialog');
    box.id = 'lightbox';
    box.setAttribute('aria-label', 'The image, enlarged');
    box.innerHTML = BOX;
    $('.gradio-container .contain').append(box);
    box.addEventListener('close', () => from?.focus());
    box.addEventListener('click', (event) => {
      const what = event.target.closest('[data-box]')?.dataset.box;
      if (what) act(what);
      else if (event.target.matches('.lightbox-stage')) box.close();
    });
    let x = null;
    box.addEventListener('pointerdown', (event) => { x = event.clientX; });
    box.addEventListener('pointerup', (event) => {
      const moved = x === null ? 0 : event.clientX - x;
      x = null;
      if (zoom === 1 && Math.abs(moved) > 60) act(moved > 0 ? 'back' : 'on');
    });
  };
  const act = (what) => {
    if (what === 'edit') {
      box.close();
      edit(images[place].dataset.name);
      return;
    }
    if (what === 'vary' || what === 'reuse') { // of the image that is large on the page, too
      const button = $(`.actions [id$="-${what}"]`, images[place].closest('.view'));
      box.close();
      button.click();
      return;
    }
    if (what === 'back' || what === 'on') {
      place = (place + (what === 'on' ? 1 : -1) + images.length) % images.length;
      zoom = 1;
      images[place].click();
    } else {
      zoom = Math.min(8, Math.max(1, what === 'in' ? zoom * 2 : zoom / 2));
    }
    draw();
  };
  const draw = () => {
    const tile = images[place];
    const image = $('img', box);
    image.src = tile.dataset.whole;
    image.alt = $('img', tile)?.alt ?? '';
    image.draggable = false;
    box.style.setProperty('--zoom', zoom);
    box.classList.toggle('zoomed', zoom > 1);
    $('.lightbox-save', box).href = tile.dataset.whole;
    $('.lightbox-place', box).textContent = `${place + 1} of ${images.length}`;
    $('.lightbox-about', box).textContent =
      $$('.captions span', tile).map((span) => span.textContent).join(' · ');
  };
  const enlarge = (opener) => {
    const view = opener.closest('.view');
    images = $$('.tile[data-whole]', view).filter((tile) => tile.dataset.whole);
    place = Math.max(0, images.findIndex((tile) => tile.dataset.name === opener.dataset.open));
    if (!images.length) return;
    if (!box) makeBox();
    from = opener;
    zoom = 1;
    draw();
    box.showModal();
    $('.lightbox-stage', box).focus();
  };
  // Selecting many in the gallery; clicks then mark tiles, and never reach what opens them.
  const gallery = () => $('#gallery-list');
  const marked = () => $$('#gallery-prompts .tile[aria-pressed="true"]');
  const count = () => { const told = $('.selected-count'); if (told) told.textContent = `${marked().length} selected`; };
  const select = (on) => {
    gallery().classList.toggle('selecting', on);
    $('[data-select]').setAttribute('aria-pressed', String(on));
    $$('#gallery-prompts .tile[data-name]').forEach((tile) =>
      on ? tile.setAttribute('aria-pressed', 'false') : tile.removeAttribute('aria-pressed'));
    count();
  };
  document.addEventListener('click', (event) => {
    const tile = event.target.closest?.('.selecting #gallery-prompts .tile[data-name]');
    if (!tile) return;
    event.stopPropagation();
    tile.setAttribute('aria-pressed', String(tile.getAttribute('aria-pressed') !== 'true'));
    count();
  }, true);
  const zip = () => {
    const numbers = marked().map((tile) => tile.dataset.name.split(' ')[1]);
    if (!numbers.length) return;
    const link = document.createElement('a');
    link.href = `/archive.zip?prompts=${numbers.join(',')}`;
    link.download = 'salon.zip';
    document.body.append(link);
    link.click();
    link.remove();
  };
  const slideMarked = () => {
    const [left, right] = marked();
    if (right) slide(...[left, right].map((tile) => [tile.dataset.whole, $('img', tile)?.alt ?? '']));
  };
  const slide = (left, right) => { // each a source and a text
    const dialog = document.createElement('dialog');
    dialog.className = 'slide';
    dialog.setAttribute('aria-label', 'Two images, one over the other');
    dialog.innerHTML = `<form method="dialog"><button class="quiet-button">Close</button></form>
      <div class="before-after"><img class="under"><img class="over">
      <input type="range" class="slider-at" min="0" max="100" value="50" aria-label="How much of the left image"></div>`;
    [[left, '.over'], [right, '.under']].forEach(([[source, about], place]) => {
      const image = $(place, dialog);
      image.src = source;
      image.alt = about;
    });
    dialog.addEventListener('close', () => dialog.remove());
    $('.gradio-container .contain').append(dialog);
    dialog.showModal();
    $('.slider-at', dialog).focus();
  };

  // Which of two is better: the winner meets the next one, and the server notes each choice.
  const compareTwo = (view) => {
    const all = $$('.tile[data-whole]', view).filter((tile) => tile.dataset.whole);
    const number = all[0]?.dataset.name.split('/')[0];
    let [left, right, ...rest] = all.filter((tile) => tile.dataset.name.startsWith(`${number}/`));
    if (!right) return;
    const dialog = document.createElement('dialog');
    dialog.className = 'better';
    dialog.setAttribute('aria-label', 'Which is better?');
    dialog.innerHTML = `<form method="dialog"><p class="better-told" aria-live="polite">Which is better?</p>
      <button type="button" class="quiet-button" data-side="none">Cannot say</button>
      <button class="quiet-button">Done</button></form>
      <div class="two"><button type="button" data-side="left"><img></button>
      <button type="button" data-side="right"><img></button></div>`;
    const show = () => [[left, 'left'], [right, 'right']].forEach(([tile, side]) => {
      const image = $(`[data-side=${side}] img`, dialog);
      image.src = tile.dataset.whole;
      image.alt = `the ${side} one is better`;
    });
    const told = $('.better-told', dialog);
    const note = async (chosen, rejected) => {
      const seed = (tile) => tile.dataset.name.split('/')[1];
      const body = {number: Number(number), chosen: seed(chosen), rejected: seed(rejected)};
      const answer = await fetch('/v1/choices', {
        method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body)});
      if (!answer.ok) throw new Error((await answer.json()).error?.message ?? answer.statusText);
    };
    let busy = false;
    const choose = async (side) => {
      if (busy) return;
      busy = true;
      const [better, worse] = side === 'right' ? [right, left] : [left, right];
      try {
        if (side !== 'none') await note(better, worse);
      } catch (error) {
        told.textContent = `Not noted: ${error.message}`;
        return;
      } finally {
        busy = false;
      }
      if (!rest.length) { dialog.close(); return; }
      [left, right] = [better, rest.shift()];
      told.textContent = `Which is better? ${rest.length + 1} to go`;
      show();
    };
    dialog.addEventListener('click', (event) => {
      const side = event.target.closest('[data-side]')?.dataset.side;
      if (side) choose(side);
    });
    dialog.addEventListener('keydown', (event) => {
      const side = {ArrowLeft: 'left', ArrowRight: 'right'}[event.key];
      if (side) choose(side);
    });
    dialog.addEventListener('close', () => dialog.remove());
    show();
    $('.gradio-container .contain').append(dialog);
    dialog.showModal();
    $('[data-side=left]', dialog).focus();
  };
  const KEYS = {ArrowLeft: 'back', ArrowRight: 'on', '+': 'in', '=': 'in', '-': 'out'};

  document.addEventListener('click', (event) => {
    const hit = (selector) => event.target.closest?.(selector);
    if (hit('#dark-switch')) {
      localStorage.setItem(THEME, isDark() ? 'light' : 'dark');
      applyTheme();
    } else if (hit('[data-toggle="settings"]')) {
      openSettings(!$('#workspace').classList.contains('open'));
    } else if (hit('[data-word]')) {
      const field = $('#prompt textarea');
      const before = field.value.trim();
      type(field, before ? `${before} ${hit('[data-word]').dataset.word}` : `a ${hit('[data-word]').dataset.word}`);
      field.focus();
    } else if (hit('[data-select]')) {
      select(!gallery().classList.contains('selecting'));
    } else if (hit('[data-zip]')) {
      zip();
    } else if (hit('[data-slide]')) {
      slideMarked();
    } else if (hit('[data-better]')) {
      compareTwo(hit('.view'));
    } else if (hit('[data-open]')) {
      enlarge(hit('[data-open]'));
    } else if (hit('.view .tile[data-name]')) {
      choose(hit('.tile'));
    }
  });
  // Gradio opens a dropdown again that is left by this key, and its options then stay.
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Tab' && event.target.matches?.('[role="combobox"]')) event.stopPropagation();
  }, true);
  document.addEventListener('keydown', (event) => {
    if (box?.open && KEYS[event.key]) {
      event.preventDefault();
      act(KEYS[event.key]);
    }
  });
  document.addEventListener('input', (event) => {
    const block = event.target.closest?.('[aria-invalid], [data-invalid]');
    if (block) { block.removeAttribute('data-invalid'); event.target.removeAttribute('aria-invalid'); }
    if (event.target.matches?.('.slider-at')) {
      event.target.closest('.before-after').style.setProperty('--at', `${event.target.value}%`);
    }
  });

  // An error that begins with the name of a field is shown there, too, and the field has the focus.
  const FORMS = {'#composer': '', '#edit-controls': 'edit-', '#compare-form': 'compare-', '#rank-form': 'rank-'};
  const showAtField = (line) => {
    const name = /^([a-z_]+)( values)?[ :]/.exec(line)?.[0].slice(0, -1).replace(' ', '-');
    const [form, before] = Object.entries(FORMS).find(([form]) => $(form)?.checkVisibility()) ?? [];
    const block = name && form && document.getElementById(before + name);
    const field = block && $('input:not([type=file]), textarea, button', block);
    if (!field || !block.closest(`${form}, #settings`)) return;
    if (block.closest('#settings')) openSettings(true);
    block.dataset.invalid = line;
    field.setAttribute('aria-invalid', 'true');
    field.focus();
    block.scrollIntoView({block: 'center'}); // not below the toast
  };

  // Gradio's own markup, where it is not accessible.
  const mend = () => {
    $$('[data-testid="toast-text"].error').forEach((toast) => {
      if (toast.dataset.seen) return;
      toast.dataset.seen = 'yes';
      showAtField(toast.textContent.trim());
    });
    // A label that leaves out the words that are shown.
    $$('button.upload-container[aria-label]').forEach((button) => button.removeAttribute('aria-label'));
    // What is shown anew in the gallery is not selected yet.
    $$('.selecting #gallery-prompts .tile[data-name]:not([aria-pressed])').forEach((tile) => tile.setAttribute('aria-pressed', 'false'));
    const workspace = $('#workspace');
    if (workspace && !workspace.dataset.seen) {
      workspace.dataset.seen = 'yes';
      openSettings(localStorage.getItem(SETTINGS) === 'open');
    }
    if (!document.documentElement.lang) document.documentElement.lang = 'en';
    applyTheme();
  };
  const watchers = [mend];
  window.salon = {$, $$, type, slide, edit, watch: (look) => watchers.push(look)};
  const start = () => {
    let due = false;
    new MutationObserver(() => {
      if (due) return;
      due = true;
      requestAnimationFrame(() => { due = false; watchers.forEach((look) => look()); });
    }).observe(document.body, {childList: true, subtree: true, attributes: true, attributeFilter: ['class']});
    mend();
  };
  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', start);
  else start();
})();
