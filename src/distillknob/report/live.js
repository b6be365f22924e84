// Only in a page that is served: loads it anew when it has changed, with what the reader had opened still open.
"use strict";

{
  const SECONDS = 2;
  const parts = () => [...document.querySelectorAll("details")];
  const name = (part) => `${part.closest("section")?.id} ${part.querySelector("summary").textContent}`;
  const kept = new Map(JSON.parse(sessionStorage.getItem("opened") ?? "[]"));
  for (const part of parts()) part.open = kept.get(name(part)) ?? part.open;

  const status = document.createElement("p");
  status.setAttribute("role", "status");
  status.className = "status";
  document.querySelector("header").append(status);
  const look = async () => {
    try {
      const response = await fetch("/version", { cache: "no-store" });
      const answer = await response.text();
      status.textContent = response.ok ? "This page follows the run." : answer;
      if (response.ok && answer !== document.documentElement.dataset.version) {
        sessionStorage.setItem("opened", JSON.stringify(parts().map((part) => [name(part), part.open])));
        location.reload();
      }
    } catch {
      status.textContent = "The server has ended: what you see stays as it is.";
    }
  };
  look();
  setInterval(look, 1000 * SECONDS);
}
