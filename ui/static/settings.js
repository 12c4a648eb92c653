// Ties each widget's label and hint to its input, as Gradio does for few of them, and puts under each setting what the
// page's template has for it. Gradio makes and drops widgets as accordions open, so the page is watched.
(() => {
  const tie = (block) => {
    const label = block.querySelector('span[data-testid="block-info"]');
    const hint = block.querySelector(".info-text");
    const controls = block.matches("fieldset") ? [block] : block.querySelectorAll("input, textarea");
    if (label) label.id = `label-${block.id}`;
    if (hint) hint.id = `hint-${block.id}`;
    const isSlider = block.querySelector('input[type="range"]');  // its number has a name of its own
    for (const control of controls) {
      if (label && !(isSlider && control.type === "number")) control.setAttribute("aria-labelledby", label.id);
      if (hint) control.setAttribute("aria-describedby", hint.id);
    }
    if (block.querySelector('input[type="radio"]')) block.setAttribute("role", "radiogroup");
  };

  const look = () => {
    const notes = document.getElementById("notes")?.content;
    for (const block of document.querySelectorAll('.block[id^="setting-"]')) {
      const note = notes?.querySelector(`[data-for="${block.id}"]`);
      if (note && !block.querySelector(":scope > .about")) block.append(note.cloneNode(true));
    }
    for (const hint of document.querySelectorAll(".block[id] .info-text:not([id])")) tie(hint.closest(".block[id]"));
  };

  let isDue = false;
  const soon = () => {
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(() => { isDue = false; look(); });
  };
  new MutationObserver(soon).observe(document.documentElement, { childList: true, subtree: true });

  // The button goes with the change: the focus stays with its setting.
  addEventListener("click", (event) => {
    const button = event.target.closest?.(".about [data-standard]");
    button?.closest(".block")?.querySelector("input:not([disabled]), textarea")?.focus();
  });
})();
