// Keeps the page current: applies the HTML of server-sent events and changes only the differences,
// so that selection and focus stay. Also sends the entry of the form.
"use strict";

const live = document.getElementById("live");
const link = document.getElementById("link");
const AGAIN_MS = 15000;
let events = null;
let again = 0;

function say(word, text) {
  link.className = "link " + word;
  link.textContent = text;
}

function follow() {
  clearTimeout(again);
  if (events || document.hidden) return;
  events = new EventSource(document.body.dataset.live);
  events.onopen = () => say("on", "live");
  events.onmessage = (event) => {
    const template = document.createElement("template");
    template.innerHTML = event.data;
    const fresh = live.cloneNode(false);
    fresh.append(template.content);
    become(live, fresh);
  };
  events.onerror = () => {
    say("off", "disconnected from the hub");
    if (events && events.readyState === EventSource.CLOSED) {
      rest();
      again = setTimeout(follow, AGAIN_MS);
    }
  };
}

function rest() {
  if (events) events.close();
  events = null;
}

// Changes `now` to equal `next`.
function become(now, next) {
  if (now.isEqualNode(next)) return;
  if (now.nodeType !== next.nodeType || now.nodeName !== next.nodeName || now.id !== next.id) {
    now.replaceWith(next);
    return;
  }
  if (now.nodeType !== Node.ELEMENT_NODE) {
    now.nodeValue = next.nodeValue;
    return;
  }
  // Do not overwrite what the user types.
  if (now === document.activeElement && now.matches("input, textarea")) return;
  for (const { name } of [...now.attributes]) if (!next.hasAttribute(name)) now.removeAttribute(name);
  for (const { name, value } of next.attributes) if (now.getAttribute(name) !== value) now.setAttribute(name, value);
  const [old, young] = [[...now.childNodes], [...next.childNodes]];
  young.forEach((child, at) => (at < old.length ? become(old[at], child) : now.append(child)));
  old.slice(young.length).forEach((child) => child.remove());
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    rest();
    say("", "");
  } else follow();
});
// A page in the browser's cache must not hold a connection to the hub.
addEventListener("pagehide", rest);
addEventListener("pageshow", follow);

const form = document.getElementById("send");
if (form) {
  const sent = document.getElementById("sent");
  const tell = (word, text) => {
    sent.className = word;
    sent.textContent = text;
  };
  document.getElementById("another").onclick = () => {
    const pairs = form.querySelector(".pairs");
    const pair = pairs.lastElementChild.cloneNode(true);
    for (const field of pair.children) field.value = "";
    pairs.append(pair);
    pair.firstElementChild.focus();
  };
  form.onsubmit = async (event) => {
    event.preventDefault();
    const pairs = [...form.querySelectorAll(".pair")].map((pair) => [...pair.children].map((field) => field.value));
    const fields = pairs.filter(([name, value]) => name !== "" && value !== "");
    if (fields.length === 0) return tell("bad", "enter a value for at least one field");
    const button = form.querySelector("[type=submit]");
    button.disabled = true;
    try {
      const headers = { "content-type": "application/json" };
      const answer = await fetch(form.action, { method: "POST", headers, body: JSON.stringify({ fields }) });
      const said = await answer.json();
      if (!answer.ok) throw new Error(said.message);
      tell("good", "sent as " + said.id);
      for (const value of form.querySelectorAll("textarea")) value.value = "";
    } catch (error) {
      tell("bad", "not sent: " + error.message);
    } finally {
      button.disabled = false;
    }
  };
}

follow();
