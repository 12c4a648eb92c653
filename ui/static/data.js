// The token limit as a line in the histogram of lengths: dragged, or moved by the arrow keys, it writes to its setting.
(() => {
  const least = 8;
  const box = () => document.querySelector("#setting-data-max-tokens input");

  function show(line, tokens) {
    const svg = line.ownerSVGElement;
    const last = Number(svg.dataset.last);
    const at = Math.min(tokens / last, 1) * svg.viewBox.baseVal.width;
    line.setAttribute("transform", `translate(${at} 0)`);
    line.setAttribute("aria-valuenow", tokens);
    line.setAttribute("aria-valuetext", `Token limit: ${tokens.toLocaleString("en")}`);
    const words = svg.parentElement.querySelector("figcaption strong");
    if (words) words.textContent = line.getAttribute("aria-valuetext");
  }

  function write(tokens) {
    const input = box();
    if (!input) return;
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(input, tokens);
    for (const kind of ["input", "change"]) input.dispatchEvent(new Event(kind, { bubbles: true }));
  }

  addEventListener("pointerdown", (event) => {
    const svg = event.target.closest?.(".lengths svg");
    if (!svg) return;
    const line = svg.querySelector(".limit");
    const span = svg.getBoundingClientRect();
    const tokens = (x) => Math.max(least, Math.round((Number(svg.dataset.last) * (x - span.left)) / span.width));
    const move = (moved) => show(line, tokens(moved.clientX));
    const drop = (dropped) => {
      removeEventListener("pointermove", move);
      write(tokens(dropped.clientX));
    };
    move(event);
    addEventListener("pointermove", move);
    addEventListener("pointerup", drop, { once: true });
    event.preventDefault();
    line.focus();
  });

  addEventListener("keydown", (event) => {
    const line = event.target.closest?.(".lengths .limit");
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -8, PageUp: 8 }[event.key];
    if (!line || !steps) return;
    event.preventDefault();
    const by = Math.max(1, Math.round(Number(line.ownerSVGElement.dataset.last) / 64));
    const tokens = Math.max(least, Number(line.getAttribute("aria-valuenow")) + steps * by);
    show(line, tokens);
    write(tokens);
  });
})();
