/* A field for the prompt while gradio still builds the page. What is typed into it, the caret and
   Enter are handed to the real one, which then stands in the same place. */
(() => {
  'use strict';
  const {$, type, watch} = window.salon;
  const STYLE = `
    #early { position: absolute; inset: 0 0 auto; box-sizing: border-box; max-width: 112rem;
      margin: 0 auto; padding: 4.35rem clamp(0.75rem, 2vw, 2rem) 0; }
    #early textarea { display: block; box-sizing: border-box; width: calc(100% - 10.6rem); height: 50px;
      font: 1.15rem/1.4 system-ui, sans-serif; padding: 0.75rem 1rem; border-radius: 0.75rem;
      border: 1px solid #8a8178; background: none; color: inherit; resize: none; }
    #early textarea:focus-visible { outline: 3px solid #b4400f; outline-offset: -3px; }
    @media (max-width: 40rem) {
      #early { padding-top: 7.95rem; }
      #early textarea { width: 100%; height: 76px; }
    }`;
  let shell = null, field = null, composing = false, entered = false;
  const build = () => {
    const {props} = window.gradio_config.components.find((each) => each.props.elem_id === 'prompt');
    shell = document.createElement('div');
    shell.id = 'early';
    shell.innerHTML = `<style>${STYLE}</style><textarea></textarea>`;
    field = $('textarea', shell);
    field.placeholder = props.placeholder;
    field.setAttribute('aria-label', props.label);
    field.addEventListener('compositionstart', () => { composing = true; });
    field.addEventListener('compositionend', () => { composing = false; handOver(); });
    field.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' || event.shiftKey || composing) return;
      event.preventDefault();
      entered = field.value.trim() !== '';
    });
    document.body.append(shell);
    field.focus();
  };
  const handOver = () => {
    const real = $('#prompt textarea');
    if (shell && real && !composing) {
      const {value, selectionStart, selectionEnd} = field;
      const focused = document.activeElement === field;
      if (value) type(real, value);
      shell.remove();
      shell = null;
      if (focused) {
        real.focus();
        if (value) real.setSelectionRange(selectionStart, selectionEnd);
      }
    }
    // The start screen comes when the page answers.
    if (entered && !shell && $('#start .start')) {
      entered = false;
      $('#draw-generate').click();
    }
  };
  // Before all that is deferred, and so before gradio begins.
  document.addEventListener('readystatechange', () => {
    if (document.readyState === 'interactive') build();
  });
  watch(handOver);
})();
