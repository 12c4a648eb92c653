// Lines for a person's own program name the address at which the page is open.
addEventListener("toggle", (event) => {
  if (!event.target.matches?.("details.serving")) return;
  for (const place of event.target.querySelectorAll(".origin")) place.textContent = location.origin;
}, true);
