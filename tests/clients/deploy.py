"""Checks the files of pipelines/deploy: `deploy.py FOLDER` prints their commands as JSON; `deploy.py FOLDER METRICS` compares the alerts
with what a server's /metrics said. Whatever is wrong is a failed assertion that names it."""

import json
import pathlib
import re
import sys

import kubernetes_validate
import promql_parser
import yaml

# What Prometheus says of each target itself.
OF_PROMETHEUS = {"up": {"job", "instance"}}
# Labels that it gives to whatever it scrapes.
OF_SCRAPES = {"job", "instance"}


class Strict(yaml.SafeLoader):
    """YAML in which no key may stand twice."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        assert len(keys) == len(set(keys)), f"a key twice among {keys}: {node.start_mark}"
        return super().construct_mapping(node, deep)


def documents(path):
    return [document for document in yaml.load_all(path.read_text(), Loader=Strict) if document]


def check_kubernetes(folder):
    """Against the schemas, and that what refers to something refers to something that is there. Returns containers' arguments."""
    found, containers = [], []
    for path in sorted((folder / "kubernetes").glob("*.yaml")):
        for document in documents(path):
            kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
            found.append(document)
    names = {(document["kind"], document["metadata"]["name"]) for document in found}
    labels = [document["spec"]["template"]["metadata"]["labels"] for document in found if document["kind"] == "Deployment"]
    for document in found:
        spec = document.get("spec", {})
        if document["kind"] in ("Service", "PodDisruptionBudget"):
            selector = spec["selector"].get("matchLabels", spec["selector"])
            assert any(selector.items() <= pod.items() for pod in labels), f"{document['kind']} selects no pod: {selector}"
        if document["kind"] not in ("Deployment", "Job"):
            continue
        template = spec["template"]
        if document["kind"] == "Deployment":
            assert spec["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in names, volume
        for container in pod["containers"]:
            limits, requests = container["resources"]["limits"], container["resources"]["requests"]
            assert limits["memory"] == requests["memory"] and "cpu" in requests
            assert container["securityContext"]["readOnlyRootFilesystem"]
            for mount in container["volumeMounts"]:
                assert mount["name"] in volumes, mount
            ports = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if document["kind"] == "Deployment":
                    assert container[probe]["httpGet"]["port"] in ports
            containers.append({"where": f"{document['kind']} {document['metadata']['name']}", "args": container["args"]})
    jobs = [text for document in found if document["kind"] == "ConfigMap" for text in document["data"].values()]
    return containers, jobs


def check_compose(folder):
    [compose] = documents(folder / "compose.yaml")
    services, containers = compose["services"], []
    for name, service in services.items():
        assert "image" in service, name
        for other, need in service.get("depends_on", {}).items():
            assert other in services, f"{name} waits for {other}"
            if need["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for {other}, whose health nobody asks for"
        for secret in service.get("secrets", []):
            assert secret in compose["secrets"], f"{name}: {secret}"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            there = (folder / source).exists() if source.startswith(".") else source in compose["volumes"]
            assert there, f"{name}: {source}"
        if service["image"] == "annvil":
            dockerfile = (folder / service["build"]["context"] / service["build"]["dockerfile"]).resolve()
            assert dockerfile == (folder / "Dockerfile").resolve(), dockerfile
            containers.append({"where": f"compose {name}", "args": service["command"], "env": sorted(service["environment"])})
    [prometheus] = documents(folder / "prometheus.yaml")
    [scrape] = prometheus["scrape_configs"]
    for target in scrape["static_configs"][0]["targets"]:
        assert target.split(":")[0] in services, target
    mounted = {volume.split(":")[1] for volume in services["prometheus"]["volumes"]}
    assert set(prometheus["rule_files"]) <= mounted
    return containers, scrape["job_name"]


def selectors(expression):
    """Every vector that an expression asks for: its name and its matchers."""
    found = []

    def enter(node):
        vector = node.vector_selector if isinstance(node, promql_parser.MatrixSelector) else node
        if isinstance(vector, promql_parser.VectorSelector):
            found.append((vector.name, [(m.name, m.op, m.value) for m in vector.matchers.matchers]))
        return True

    promql_parser.walk(expression, enter)
    return found


def rules(folder):
    [alerts] = documents(folder / "alerts.yaml")
    for group in alerts["groups"]:
        for rule in group["rules"]:
            assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations", "keep_firing_for"}, rule
            assert rule["annotations"]["summary"] and rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
            try:
                expression = promql_parser.parse(rule["expr"])
            except ValueError as error:
                raise AssertionError(f"{rule['alert']} is no PromQL: {error}") from error
            yield rule["alert"], expression, rule


def series_of(metrics):
    """Names of series, and the values that each of their labels has."""
    series = {}
    for line in metrics.splitlines():
        if line and not line.startswith("#"):
            name, labels = re.fullmatch(r"(\w+)(?:\{(.*)\})? \S+", line).groups()
            values = series.setdefault(name, {})
            for label, value in re.findall(r'(\w+)="([^"]*)"', labels or ""):
                values.setdefault(label, set()).add(value)
    return series


def check_alerts(folder, series, job):
    asked = set()
    for name, expression, rule in rules(folder):
        of_alert = selectors(expression)
        assert of_alert, f"{name} asks for nothing"
        for metric, matchers in of_alert:
            asked.add(metric)
            known = OF_PROMETHEUS.get(metric) or series.get(metric)
            assert known is not None, f"{name}: no server says `{metric}`; it says {sorted(series)}"
            for label, op, value in matchers:
                assert label in known or label in OF_SCRAPES, f"{name}: `{metric}` has no label `{label}`"
                if metric in series and label in known:
                    is_right = re.compile(value).fullmatch if op == promql_parser.MatchOp.Re else value.__eq__
                    assert "5.." in value or any(map(is_right, known[label])), f"{name}: no {label} is `{value}`, of {known[label]}"
                if label == "job":
                    assert value == job, f"{name}: the job is `{job}`"
        labels = set().union(*(series.get(metric, {}) for metric, _ in of_alert)) | OF_SCRAPES
        for told in re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])):
            assert told in labels, f"{name} tells the label `{told}`; there is {labels}"
    promised = {"annvil_request_seconds_bucket", "annvil_shadow_recall_sum", "annvil_resident_memory_bytes"}
    assert promised <= asked, asked


def check_dockerfile(folder):
    root, text = folder.parent.parent, (folder / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    stages = [line for line in lines if line[0] == "FROM"]
    assert len(stages) == 2 and stages[0][2:] == ["AS", "build"]
    last = lines[lines.index(stages[1]):]
    [user] = [line[1] for line in last if line[0] == "USER"]
    assert int(user.split(":")[0]) > 0, "it runs as root"
    assert ["ENTRYPOINT", '["annvil"]'] in last
    allowed = [line[1:] for line in (folder / "Dockerfile.dockerignore").read_text().split() if line.startswith("!")]
    for line in lines:
        if line[0] == "COPY" and not line[1].startswith("--from"):
            for source in line[1:-1]:
                assert (root / source).exists(), source
                assert any(source == path or source.startswith(f"{path}/") for path in allowed), f"{source} is ignored"
    [features] = [line[1].split("=")[1] for line in lines if line[0] == "ARG"]
    return features.split(","), [source for line in lines if line[0] == "COPY" for source in line[1:-1] if not source.startswith("--")]


def main(folder, metrics=None):
    containers, jobs = check_kubernetes(folder)
    of_compose, job = check_compose(folder)
    features, sources = check_dockerfile(folder)
    assert len(list(rules(folder))) > 3
    if metrics is not None:
        check_alerts(folder, series_of(pathlib.Path(metrics).read_text()), job)
    found = {"containers": of_compose + containers, "jobs": jobs, "features": features, "sources": sources}
    print(json.dumps(found))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve(), *sys.argv[2:])
