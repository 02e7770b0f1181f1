"use strict";

const live = document.getElementById("live");

/** Add to each time of a part of the page what the clock here shows. */
function addLocalTimes(part) {
  for (const time of part.querySelectorAll("time:not([data-local])")) {
    const at = new Date(time.dateTime);
    time.dataset.local = "";
    time.title = at.toLocaleString();
    if (at.getTimezoneOffset() !== 0 && !time.closest(".axis, tbody th")) {
      const local = document.createElement("span");
      local.className = "local";
      local.textContent = `(${at.toLocaleTimeString([], { hourCycle: "h23" })} here)`;
      time.append(" ", local);
    }
  }
}

/** Let the buttons copy; without a script they are hidden. */
function letButtonsCopy(part) {
  for (const button of part.querySelectorAll("button[data-copy]")) {
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
    });
  }
}

function say(words, lost) {
  if (live.textContent !== words) {
    live.textContent = words;
  }
  live.classList.toggle("lost", lost);
}

/** Fetch the page, and put what has changed into its place; the rest, and where the reader is, stays. */
async function lookAgain() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (answer.status === 401) {
    location.reload();
    return;
  }
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const next = fresh.getElementById(part.id);
    if (next === null || part.dataset.source === next.innerHTML) {
      continue;
    }
    const open = [...part.querySelectorAll("details")].map((each) => each.open);
    part.dataset.source = next.innerHTML;
    part.className = next.className;
    part.innerHTML = next.innerHTML;
    part.querySelectorAll("details").forEach((each, at) => { each.open = open[at] ?? false; });
    addLocalTimes(part);
    letButtonsCopy(part);
  }
  document.title = fresh.title;
  live.dataset.digest = fresh.getElementById("live").dataset.digest;
}

function clock() {
  return new Date().toISOString().slice(11, 19) + " UTC";
}

function follow() {
  let lostAt = null;
  const stream = new EventSource("live");
  stream.addEventListener("open", () => {
    lostAt = null;
    say("Live: what changes shows within seconds.", false);
  });
  stream.addEventListener("changed", async (event) => {
    if (event.data !== live.dataset.digest) {
      await lookAgain().catch(() => {});
    }
  });
  stream.addEventListener("error", () => {
    lostAt = lostAt ?? clock();
    if (stream.readyState === EventSource.CLOSED) {
      // The browser gives up when it is refused: the session is over, or too many pages are live.
      say(`Not live since ${lostAt}: load the page again.`, true);
      setTimeout(() => lookAgain().then(follow, follow), 30000);
    } else {
      say(`Not live since ${lostAt}: trying again.`, true);
    }
  });
}

for (const part of document.querySelectorAll("[data-live]")) {
  part.dataset.source = part.innerHTML;
}
addLocalTimes(document);
letButtonsCopy(document);
const zone = document.querySelector("[data-zone]");
if (zone !== null && new Date().getTimezoneOffset() !== 0) {
  zone.textContent = ` and, in brackets, ${Intl.DateTimeFormat().resolvedOptions().timeZone}`;
}
if (live !== null && "EventSource" in window) {
  follow();
}
