// The page: puts each look where it belongs, says aloud what matters, and asks before it cancels.

import { Chart } from "./chart.js";
import { Errors } from "./errors.js";
import { brief, count, duration, fillTable, percent, perSecond, put } from "./figures.js";
import { Graph } from "./graph.js";
import { Link } from "./link.js";
import { Timeline } from "./timeline.js";

const $ = (id) => document.getElementById(id);

const graph = new Graph($("graph"));
const chart = new Chart($("chart"));
const timeline = new Timeline($("timeline"), $("timeline-legend"));
const errors = new Errors({ list: $("errors"), none: $("no-errors"), total: $("errors-count") });
const link = new Link({ onLook: take, onState: setLink });

const LINKS = {
  connecting: ["connecting", ""],
  live: ["live", ""],
  lost: ["reconnecting", "The connection is lost; trying again. If the program has been killed, nothing will answer any more. The figures below are the last ones."],
  silent: ["no news", "Nothing has come for some seconds: the program may be stopped, or the machine very busy."],
  crowded: ["waiting", "As many as may are looking already; trying again."],
  refused: ["refused", "The token in the address is missing, or is that of another run. Open the address that the program has printed."],
  over: ["over", ""],
};

let linkState = "connecting";
let spoken = "";
let failedBefore = 0;

function setLink(state) {
  if (state === linkState) return;
  const was = linkState;
  linkState = state;
  const [word, notice] = LINKS[state];
  $("link").dataset.link = state === "silent" || state === "crowded" || state === "refused" ? "lost" : state;
  put($("link-word"), word);
  put($("notice"), notice);
  $("notice").hidden = !notice;
  if (notice) say(notice);
  else if (state === "live" && was !== "connecting") say("Connected again.");
  if (state !== "live") $("cancel").disabled = true;
}

function say(text) {
  put($("news"), text);
}

// A state as one word for people, and one for the style.
function stateOf(look) {
  if (look.state === "idle" || look.state === "pending") return ["idle", "no run yet"];
  if (look.state === "running") return ["running", "running"];
  if (look.state === "cancelling") return ["cancelling", "being cancelled"];
  if (look.ending && look.ending.is_ok) return ["well", "finished"];
  if (look.ending && !look.ending.cause && look.reason) return ["cancelled", "cancelled"];
  if (look.reason || look.ending) return ["failed", "failed"];
  return ["well", "finished"];
}

function take(look) {
  showRun(look);
  if (look.state === "idle") return;
  graph.show(look);
  chart.take(look.chart);
  timeline.take(look);
  errors.take(look);
  showTables(look);
}

function showRun(look) {
  const [kind, word] = stateOf(look);
  $("state").dataset.state = kind;
  put($("state-word"), word);
  const reason = look.reason && kind !== "running" ? `Reason: ${look.reason}` : "";
  put($("reason"), reason);
  $("reason").hidden = !reason;
  const advice = (look.ending && look.ending.advice) || "";
  put($("advice"), advice);
  $("advice").hidden = !advice;
  $("cancel").disabled = kind !== "running" || linkState !== "live";
  document.title = kind === "idle" ? "mpengine" : `${word} – mpengine`;
  if (look.state === "idle") return;
  put($("run-name"), `run ${look.run}`);
  const failed = look.stages.reduce((sum, stage) => sum + stage.failed, 0);
  const { total, share, left_s: left } = look.ahead;
  put($("f-elapsed"), duration(look.elapsed_s));
  put($("f-left"), kind === "running" && left != null ? `about ${duration(left)}` : "–");
  put($("f-pulled"), total ? `${brief(look.pulled)} of ${brief(total)}` : brief(look.pulled));
  put($("f-delivered"), brief(look.delivered));
  put($("f-rate"), perSecond(look.state === "finished" && look.elapsed_s ? look.delivered / look.elapsed_s : look.per_s));
  put($("f-failed"), failed ? `✕ ${brief(failed)}` : "0");
  $("f-failed").classList.toggle("bad", failed > 0);
  $("share").hidden = share == null;
  if (share != null) {
    const told = Math.floor(100 * share);
    $("share").setAttribute("aria-valuenow", told);
    $("share-bar").style.width = `${100 * share}%`;
  }
  announce(look, word, failed);
}

function announce(look, word, failed) {
  const now = `${look.run} ${word}`;
  if (now !== spoken) {
    spoken = now;
    say(`Run ${look.run}: ${word}.${look.reason ? ` Reason: ${look.reason}.` : ""}${look.ending ? ` ${count(look.delivered)} delivered, ${count(failed)} failed.` : ""}`);
    failedBefore = failed;
  } else if (failed && !failedBefore) {
    say("The first item has failed.");
    failedBefore = failed;
  }
}

function showTables(look) {
  const workers = Math.max(1, look.workers_in_all);
  fillTable($("stages").tBodies[0], look.stages.map((stage) => [
    stage.name, count(stage.queued), count(stage.buffer), count(stage.in_flight), count(stage.processed),
    perSecond(stage.per_s), `${Math.min(workers, stage.busy).toFixed(1)} of ${workers}`, count(stage.failed), count(stage.retried),
  ]));
  fillTable($("workers").tBodies[0], look.workers.map((worker) => [
    String(worker.id), worker.pid === null ? "–" : String(worker.pid), worker.state,
    worker.state === "busy" && worker.stage !== null ? look.stages[worker.stage]?.name ?? "–" : "–",
    count(worker.items), percent(worker.busy), count(worker.deaths),
  ]));
  const more = look.workers_in_all - look.workers.length;
  put($("more-workers"), more > 0 ? `The first ${look.workers.length} of ${look.workers_in_all} workers.` : "");
  $("more-workers").hidden = more <= 0;
}

const ask = $("ask");
$("cancel").addEventListener("click", () => ask.showModal());
$("ask-no").addEventListener("click", () => ask.close("no"));
ask.addEventListener("close", async () => {
  const isMeant = ask.returnValue === "yes";
  ask.returnValue = "";
  if (!isMeant) return;
  try {
    await link.cancel($("ask-reason").value);
    say("The run is being cancelled.");
  } catch (error) {
    say(`The run could not be cancelled: ${error.message}`);
    put($("notice"), `The run could not be cancelled: ${error.message}`);
    $("notice").hidden = false;
  }
});

link.open();
