// The connection: events in, one request out.  It comes back by itself until the run is over.

const AGAIN_MS = 2000;
const SILENT_MS = 5000;

export class Link {
  // The token is in the address behind the #, which no server, log or other page ever sees.
  constructor({ onLook, onState }) {
    Object.assign(this, { onLook, onState });
    this.token = location.hash.slice(1) || sessionStorage.getItem("token") || "";
    if (location.hash) {
      sessionStorage.setItem("token", this.token);
      history.replaceState(null, "", location.pathname);
    }
    this.source = null;
    this.heardAt = 0;
    this.isOver = false;
    setInterval(() => this.listen(), 1000);
  }

  open() {
    this.source = new EventSource(`events?token=${encodeURIComponent(this.token)}`);
    this.source.addEventListener("step", (event) => {
      this.heardAt = performance.now();
      this.onState("live");
      this.onLook(JSON.parse(event.data));
    });
    this.source.addEventListener("end", () => {
      this.isOver = true;
      this.source.close();
      this.onState("over");
    });
    this.source.addEventListener("error", () => {
      if (this.isOver) return;
      this.onState("lost");
      if (this.source.readyState === EventSource.CLOSED) this.again();
    });
  }

  // A browser gives up for good when it is answered with an error: see which, and try again where that makes sense.
  async again() {
    const status = await this.ask("check").then((answer) => answer.status, () => 0);
    if (status === 403) return this.onState("refused");
    if (status === 204) this.onState("crowded");
    setTimeout(() => this.open(), AGAIN_MS);
  }

  listen() {
    const isOpen = this.source && this.source.readyState === EventSource.OPEN;
    if (isOpen && this.heardAt && !this.isOver && performance.now() - this.heardAt > SILENT_MS) this.onState("silent");
  }

  ask(path, options = {}) {
    return fetch(path, { ...options, headers: { authorization: `Bearer ${this.token}`, "content-type": "application/json" } });
  }

  async cancel(reason) {
    const answer = await this.ask("cancel", { method: "POST", body: JSON.stringify({ reason }) });
    if (!answer.ok) throw new Error(await answer.text());
  }
}
