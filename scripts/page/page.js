"use strict";
// Filters, sorts and pages the utterances. Everything shown is in the document already; texts are only compared here.
(() => {
  const form = document.getElementById("filters");
  if (!form) return;
  const PAGE = 20;
  const list = document.getElementById("list");
  const status = document.getElementById("status");
  const more = document.getElementById("more");
  const cards = [...list.children].map((element, order) => ({
    element,
    order,
    language: element.dataset.language,
    audio: element.dataset.audio,
    differences: new Map(JSON.parse(element.dataset.differences)),
    text: null,
  }));
  let limit = PAGE;

  const value = (name) => form.elements[name].value;

  // The differences that count: of the chosen build, of the chosen kind.
  function differences(card, build, kind) {
    return [...card.differences].filter(([name, each]) => (!build || name === build) && (!kind || each.kinds.includes(kind)));
  }

  function holds(card, search) {
    if (!search) return true;
    card.text ??= `${card.audio}\n${card.element.textContent}`.toLowerCase();
    return card.text.includes(search);
  }

  function apply() {
    const [language, build, kind, sort] = ["language", "build", "kind", "sort"].map(value);
    const search = value("search").trim().toLowerCase();
    const found = [];
    for (const card of cards) {
      const counted = differences(card, build, kind);
      const kept = counted.length > 0 && (!language || card.language === language) && holds(card, search);
      if (kept) found.push({ card, severity: sort === "audio" ? 0 : Math.max(...counted.map(([, each]) => each[sort])) });
    }
    found.sort((one, other) =>
      sort === "audio"
        ? one.card.audio.localeCompare(other.card.audio) || one.card.order - other.card.order
        : other.severity - one.severity || one.card.order - other.card.order);
    const shown = found.slice(0, limit).map(({ card }) => card.element);
    for (const player of list.querySelectorAll("audio")) if (!shown.some((each) => each.contains(player))) player.pause();
    const kept = new Set(shown);
    for (const { element } of cards) element.classList.toggle("later", !kept.has(element));
    shown.forEach((element, place) => {
      const player = element.querySelector("template"); // a thousand players would take seconds to make
      player?.replaceWith(document.importNode(player.content, true)); // moved, Chromium would not play it
      if (list.children[place] !== element) list.insertBefore(element, list.children[place]);
    });
    status.textContent = `${found.length} of ${cards.length} utterances; ${shown.length} shown`;
    more.hidden = shown.length === found.length;
    more.textContent = `Show ${Math.min(PAGE, found.length - shown.length)} more of ${found.length - shown.length}`;
    return shown;
  }

  function restart() {
    limit = PAGE;
    apply();
  }

  form.addEventListener("input", restart);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(restart));
  more.addEventListener("click", () => {
    const first = limit;
    limit += PAGE;
    const heading = apply()[first]?.querySelector("h3");
    if (heading) {
      heading.tabIndex = -1;
      heading.focus();
    }
  });
  // One recording at a time.
  list.addEventListener("play", (event) => {
    for (const player of list.querySelectorAll("audio")) if (player !== event.target) player.pause();
  }, true);

  form.hidden = false;
  apply();
})();
