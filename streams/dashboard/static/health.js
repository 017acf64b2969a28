// What a person may ask for on this page: the books, and a test of the channels.
import "./books.js";
import { el, message, post } from "./dom.js";

const button = document.getElementById("try-channel");
const choice = document.getElementById("channel");
const box = document.getElementById("channels");

button.addEventListener("click", async () => {
  button.disabled = true;
  box.replaceChildren(el("p", { class: "about" }, "sending …"));
  try {
    const { said } = await post("/api/alerts/test", { to: choice.value });
    box.replaceChildren(el("pre", { tabindex: "0" }, el("code", {}, said)));
  } catch (error) {
    box.replaceChildren(message("error", "It did not arrive", error.message));
  }
  button.disabled = false;
});
