// The page: one chat, one feed, and the key that both come with.

import { asking, key } from "./api.js";
import { setModel, start } from "./chat.js";
import { $, say } from "./dom.js";
import { Feed } from "./feed.js";
import { Panels } from "./panels.js";

const SHOWN = { live: "Live", paused: "Paused" };

const panels = new Panels();
const feed = new Feed(
  (known) => {
    if (known.model) {
      setModel(known.model);
      say($("model"), known.model);
    }
    panels.show(known);
  },
  (said) => {
    say($("feed"), SHOWN[said] ?? said);
    $("feed").dataset.is = said in SHOWN ? said : "off";
  },
);

for (const button of document.querySelectorAll(".views button")) {
  button.onclick = () => { document.body.dataset.view = button.dataset.to; };
}
new MutationObserver(() => {
  for (const button of document.querySelectorAll(".views button")) {
    if (button.dataset.to === document.body.dataset.view) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
  panels.resized();
}).observe(document.body, { attributeFilter: ["data-view"] });

function askForKey(was_wrong) {
  say($("key-error"), was_wrong ? "The server does not know this key." : "");
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

asking.forKey = askForKey;
$("key-button").onclick = () => askForKey(false);
$("key-form").onsubmit = (event) => {
  event.preventDefault();
  const given = $("key").value.trim();
  if (given) key.set(given);
  $("key").value = "";
  $("key-dialog").close();
  feed.stop("paused");
  feed.run();
};
$("key-forget").onclick = () => {
  key.set("");
  $("key-dialog").close();
};

start();
feed.run();
