// Only in a page that is served: loads it anew when it has changed, with what the reader had opened still open.
"use strict";

{
  const SECONDS = 2;
  const parts = () => [...document.querySelectorAll("details")];
  const opened = sessionStorage.getItem("opened");
  if (opened) JSON.parse(opened).forEach((open, at) => parts()[at] && (parts()[at].open = open));

  let first = null;
  const status = document.createElement("p");
  status.setAttribute("role", "status");
  status.className = "status";
  document.querySelector("header").append(status);
  const look = async () => {
    try {
      const response = await fetch("/version", { cache: "no-store" });
      const answer = await response.text();
      status.textContent = response.ok ? "This page follows the run." : answer;
      if (!response.ok) return;
      first ??= answer;
      if (answer !== first) {
        sessionStorage.setItem("opened", JSON.stringify(parts().map((one) => one.open)));
        location.reload();
      }
    } catch {
      status.textContent = "The server has ended: what you see stays as it is.";
    }
  };
  look();
  setInterval(look, 1000 * SECONDS);
}
