// What no Gradio component does: a page that comes back from the browser's cache is read again, and copy buttons.
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

// Browsers have a clipboard for pages of this machine or with a certificate; for others there is the old way.
const copy = async (element) => {
  if (navigator.clipboard) return navigator.clipboard.writeText(element.innerText);
  getSelection().selectAllChildren(element);
  document.execCommand("copy");
};

addEventListener("click", async (event) => {
  const button = event.target.closest?.("[data-copy]");
  if (!button) return;
  await copy(document.querySelector(button.dataset.copy));
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1500);
});
