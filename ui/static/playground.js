// The popover of a token in the Playground: how likely it was, and what else was, to its own model and to the base.
// The facts lie beside the token as JSON and are put on the page as text. Arrow keys go from token to token.
(() => {
  let popover = null;
  let shown = null;

  const make = (name, text = "", kind = "") => {
    const element = document.createElement(name);
    element.textContent = text;
    if (kind) element.className = kind;
    return element;
  };

  const percent = (share) => (share >= 0.9995 ? "100 %" : share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);

  // A token's white space and marks, made visible.
  const visible = (text) => text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "·";

  const list = (title, [text, probability, likeliest]) => {
    const column = make("section");
    column.append(make("h3", title));
    // Parts of characters look alike, so the token is told by its share as well.
    const found = likeliest.findIndex(([other, share]) => other === text && share === probability);
    const rows = found < 0 ? [...likeliest, [text, probability]] : likeliest;
    const chosen = found < 0 ? likeliest.length : found;
    const items = make("ol");
    for (const [at, [other, share]] of rows.entries()) {
      const item = make("li", "", at === chosen ? "chosen" : "");
      item.append(make("code", visible(other)), make("span", percent(share), "share"));
      items.append(item);
    }
    column.append(items);
    return column;
  };

  const place = (token) => {
    const box = token.getClientRects()[0] ?? token.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = popover;
    const left = Math.max(12, Math.min(box.left, innerWidth - width - 12));
    const isBelow = box.bottom + height + 12 < innerHeight || box.top < height + 12;
    popover.style.left = `${left + scrollX}px`;
    popover.style.top = `${(isBelow ? box.bottom + 6 : box.top - height - 6) + scrollY}px`;
  };

  const hide = () => {
    if (shown) {
      shown.classList.remove("shown");
      shown.removeAttribute("aria-describedby");
    }
    shown = null;
    if (popover) popover.hidden = true;
  };

  const show = (token) => {
    if (token === shown) return;
    hide();
    if (!popover) {
      popover = make("div");
      popover.id = "token-popover";
      popover.setAttribute("role", "tooltip");
      document.body.append(popover);
    }
    const { own, base } = JSON.parse(token.dataset.token);
    const columns = make("div", "", "columns");
    columns.append(list(base ? "This model" : "Likeliest here", own));
    if (base) columns.append(list("The base", base));
    popover.replaceChildren(columns);
    popover.hidden = false;
    shown = token;
    token.classList.add("shown");
    token.setAttribute("aria-describedby", popover.id);
    place(token);
  };

  const tokenOf = (event) => event.target.closest?.(".token[data-token]");

  addEventListener("mouseover", (event) => {
    const token = tokenOf(event);
    if (token) show(token);
    else if (shown !== document.activeElement) hide();
  });
  addEventListener("focusin", (event) => {
    const token = tokenOf(event);
    if (token) show(token);
    else hide();
  });
  addEventListener("scroll", hide, true);
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const token = by && tokenOf(event);
    if (!token) return;
    const all = [...token.parentElement.querySelectorAll(".token[data-token]")];
    const next = all[all.indexOf(token) + by];
    if (!next) return;
    event.preventDefault();
    token.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  // What it belongs to may be drawn anew under it.
  new MutationObserver(() => { if (shown && !shown.isConnected) hide(); })
    .observe(document.documentElement, { childList: true, subtree: true });
})();
