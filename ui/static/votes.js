// Voting by keyboard: a number for the best answer, T for a tie, B for all bad, N for the next prompt. Not while a field
// is typed into, a button of another kind has the focus for its own keys, or a key is held with Ctrl, Alt or Meta.
(() => {
  const isTypedInto = (element) => element?.closest?.("input, textarea, select, [contenteditable]");
  const isShown = (element) => element.offsetParent !== null;

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || isTypedInto(event.target)) return;
    const key = event.key.toLowerCase();
    if (!/^[1-6tbn]$/.test(key)) return;
    const sheet = document.querySelector("#sheet .sheet");
    const places = sheet ? [sheet] : [...document.querySelectorAll("#panes, #votes")];
    const button = places.flatMap((place) => [...place.querySelectorAll(`[data-key="${key}"]`)]).find(isShown);
    if (!button) return;
    event.preventDefault();
    button.click();
  });
})();
