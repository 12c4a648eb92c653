// What no Gradio component does: a page that comes back from the browser's cache is read again, and copy buttons.
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

addEventListener("click", async (event) => {
  const button = event.target.closest?.("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(document.querySelector(button.dataset.copy).innerText);
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1500);
});
