"""``python -m dev.demo`` (make demo): see `dev.demo`.  Anything that does not come out as it must ends it with 1."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from dev.cluster.progress import ClusterError
from dev.demo import ask, install, measure, pull, walls
from dev.demo.install import Unexpected
from dev.demo.kube import Json, Refused, TooLate, wait
from dev.demo.measure import Prometheus
from dev.demo.show import GREEN, RED, Show, paint
from dev.demo.story import ACTORS, Actor, neighbour
from dev.demo.target import Target, ToolError
from tenantry import names
from tenantry.backends import kinds

SCRAPED_SECONDS = 60


class Demo:
    """The steps, in their order."""

    def __init__(self, target: Target, show: Show) -> None:
        self.target = target
        self.kube = target.kube
        self.show = show
        self.prometheus = Prometheus(target.prometheus) if target.prometheus else None
        self.used: dict[str, int] = {}

    def questions(self) -> None:
        """Each tenant is asked about what only its own document says, and one about another's."""
        self.show.step("A question to each tenant's runtime, through the official openai client")
        for actor in ACTORS:
            region = ask.region_of(self.kube, actor.name)
            prices = ask.prices(region)
            ai = ask.client(self.target.runtime(actor.name), ask.api_key(self.kube, actor.name))
            before = self._scraped(actor)
            uploaded = ask.upload(ai, actor)
            self.show.line(f"{actor.display_name} ({actor.tier}), {names.endpoint(actor.name)}")
            done = "put into a vector store" if uploaded else "there from an earlier run"
            self.show.line(f"document  {actor.filename}, {len(actor.document)} bytes, {done}", 4)
            answered = ask.ask(ai, actor.question, actor.model, prices)
            self.used[actor.name] = before + answered.input_tokens + answered.output_tokens
            self.show.line(f"question  {actor.question}", 4)
            self.show.line(f"answer    {answered.text}", 4)
            self.show.line(
                f"took      {answered.model} of {answered.provider or 'the provider'}, {answered.input_tokens} tokens "
                f"in and {answered.output_tokens} out, ${answered.cost:.7f} at the region's prices",
                4,
            )
            if actor.fact not in answered.text:
                raise Unexpected(f"{actor.name}'s runtime does not know what its own document says ({actor.fact}).")

    def _scraped(self, actor: Actor) -> int:
        return int(self.prometheus.total(measure.tokens(actor.name))) if self.prometheus else 0

    def metrics(self) -> None:
        self.show.step("Each tenant's own metrics, as Prometheus scraped them")
        if self.prometheus is None:
            self.show.line("Not shown: set TENANTRY_PROMETHEUS_URL to the address of your Prometheus.")
            return
        prometheus = self.prometheus
        rows = []
        for actor in ACTORS:

            def scraped(actor: Actor = actor) -> list[str] | None:
                if prometheus.total(measure.tokens(actor.name)) < self.used[actor.name]:
                    return None
                return measure.row(prometheus, actor.name)

            rows.append(wait(scraped, f"Prometheus has scraped {actor.name}'s question", SCRAPED_SECONDS, 2))
        self.show.line(f"{self.target.prometheus}/graph has them all; these are sums and maxima over replicas:")
        self.show.table(("tenant", *(title for title, _, _ in measure.SHOWN)), rows)

    def show_walls(self) -> None:
        self.show.step("The walls: each tenant's credentials at another's door, and the same call at home")
        tenants = {actor.name: self._tenant(actor) for actor in ACTORS}
        self._notes()
        held = 0
        for wall in self._walls(tenants):
            self.show.line(f"{wall.what}:")
            for where, attempt in (("home", wall.home), ("away", wall.away)):
                self.show.line(f"{where}  {attempt.call}", 4)
                mark = "refused" if attempt.refused else "answer"
                self.show.line(f"{mark}: {attempt.answer}", 10)
            if not wall.holds:
                raise Unexpected(f"{wall.what} did not come out as it must: see the two answers above.")
            held += 1
        self.show.line(f"{held} walls, each refusal in the server's own words, each with its call at home succeeding.")
        without = [a.name for a in ACTORS if _level(tenants[a.name]) == "Partition"]
        if without:
            self.show.line(
                f"{' and '.join(without)} share a Milvus collection (level Partition) and have no Milvus user at all: "
                "Milvus can't grant a partition, so the runtime, which alone holds the shared user, is the wall there."
            )
        self._foreign_question()

    def _notes(self) -> None:
        for actor in ACTORS:
            walls.note(self._secret(actor, "postgres"), actor.fact)

    def _walls(self, tenants: dict[str, Json]) -> Iterator[walls.Wall]:
        urls = {actor.name: self.target.runtime(actor.name) for actor in ACTORS}
        for actor in ACTORS:
            yield walls.keys(actor, neighbour(actor), ask.api_key(self.kube, actor.name), urls)
        for actor in ACTORS:
            yield from walls.roles(actor, neighbour(actor), self._secret(actor, "postgres"))
        for actor in ACTORS:
            if _level(tenants[actor.name]) != "Partition":
                others = [seen for name, seen in tenants.items() if name != actor.name]
                yield from walls.vectors(actor.name, self._secret(actor, "milvus"), walls.collections(others))
        for actor in ACTORS:
            yield walls.owners(actor, neighbour(actor), self.kube)

    def _foreign_question(self) -> None:
        """No wall refuses a question; the answer just must not know."""
        actor = ACTORS[0]
        there = neighbour(actor)
        prices = ask.prices(ask.region_of(self.kube, there.name))
        ai = ask.client(self.target.runtime(there.name), ask.api_key(self.kube, there.name))
        answered = ask.ask(ai, actor.question, there.model, prices)
        self.show.line(f"{actor.name}'s question, asked at {there.name}'s runtime with {there.name}'s own key:")
        self.show.line(f"question  {actor.question}", 4)
        self.show.line(f"answer    {answered.text}", 4)
        if actor.fact in answered.text:
            raise Unexpected(f"{there.name}'s runtime knows what only {actor.name}'s document says.")

    def always_pull(self) -> None:
        self.show.step("The policy imagePullPolicy: Always, by a server-side dry run")
        namespace = names.workload_namespace(ACTORS[0].name)
        if not self.target.ours:
            self.show.line(f"A Pod that says IfNotPresent becomes: {pull.asked(self.kube, namespace)}")
            return
        before, after = pull.show(self.kube, namespace, install.always_pull_policy(self.target))
        self.show.line("This cluster's images are imported, not pulled, so the policy is off (admission.alwaysPull).")
        self.show.line(f"A Pod in {namespace} that says IfNotPresent, without the policy: {before}")
        self.show.line(f"The same with the policy, in force for dry runs only:          {after}")
        if (before, after) != ("IfNotPresent", "Always"):
            raise Unexpected("The policy did not change imagePullPolicy from IfNotPresent to Always.")

    def _tenant(self, actor: Actor) -> Json:
        found = self.kube.get(kinds.TENANT, actor.name)
        if found is None:
            raise Unexpected(f"Tenant {actor.name} is gone.")
        return found

    def _secret(self, actor: Actor, name: str) -> dict[str, str]:
        found = self.kube.secret(names.workload_namespace(actor.name), name)
        if found is None:
            raise Unexpected(f"Secret {names.workload_namespace(actor.name)}/{name} is not there.")
        return found

    def next(self) -> None:
        self.show.step("What to try next")
        first = ACTORS[0].name
        shell = "export KUBECONFIG=.dev/kubeconfig PATH=$PWD/.dev/bin:$PATH" if self.target.ours else ""
        for command in (
            shell,
            "kubectl get tenants,accesskeys -A",
            f"kubectl describe tenant {first}",
            "kubectl explain tenant.spec.ai",
            f'kubectl patch tenant {first} --type=merge -p \'{{"spec":{{"tier":"pro"}}}}\'',
            f"kubectl --as {ACTORS[0].owner} auth can-i --list -n tenant-{first}",
            f"kubectl delete tenant {first}   # its deletion.policy is Delete: its data goes too",
            "make test",
            "make cluster-down" if self.target.ours else "",
        ):
            if command:
                self.show.raw(command, 4)


def _level(tenant: Json) -> str:
    return str(tenant["status"]["pinned"]["vectorIsolation"])


def run() -> None:
    show = Show(steps=8)
    target = install.find_cluster(show)
    try:
        install.operator(target, show)
        install.tenants(target, show, ACTORS)
        demo = Demo(target, show)
        demo.questions()
        demo.metrics()
        demo.show_walls()
        demo.always_pull()
        demo.next()
    finally:
        target.close()
    print(f"\n{paint('Done: everything came out as it must.', GREEN)}")


def main() -> int:
    try:
        run()
    except KeyboardInterrupt:
        print("\nInterrupted; `make demo` goes on from here.", file=sys.stderr)
        return 130
    except (Unexpected, TooLate, ToolError, ClusterError, Refused) as problem:
        print(f"\n{paint('The demo stopped:', RED)} {problem}", file=sys.stderr)
        return 1
    except Exception as problem:
        print(f"\n{paint('The demo stopped:', RED)} {type(problem).__name__}: {problem}", file=sys.stderr)
        if os.environ.get("TENANTRY_DEBUG"):
            raise
        print("TENANTRY_DEBUG=1 make demo shows where.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
