#!/usr/bin/python
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Bring the IPsec state of a host in line with a mesh.toml, or take it away."""

DOCUMENTATION = r"""
module: meshsec
short_description: Apply an encrypted mesh to a host, or destroy it
description:
  - Runs meshsec on the host. With I(state=present) the kernel gets the SAs, policies and guards that
    mesh.toml asks for; with I(state=absent) all objects of the mesh go.
  - In check mode nothing is changed. The plan is made for I(content), not for the file that is in
    place, so that it shows the changes that a run would make.
  - The module is C(changed) if mesh.toml is written anew, if a step was performed in the kernel, or
    if a ratchet was turned. Check mode can't foresee a ratchet's turn.
  - With C(--diff) it shows the difference of mesh.toml, and each object of the kernel before and
    after. Keys are fingerprints.
options:
  state:
    description:
      - C(absent) leaves mesh.toml and the secrets where they are. Traffic of the mesh leaves in the
        clear afterwards. Stop C(meshsec.timer) first, which would apply the mesh again.
    type: str
    choices: [present, absent]
    default: present
  config:
    description: The mesh's file. Relative paths of secrets and included files begin at its directory.
    type: path
    default: /etc/meshsec/mesh.toml
  content:
    description:
      - The text of the file. It is written to I(config), in one step, once it is valid and right
        before it is applied. Without it the file that is there is applied.
      - Included files and secrets are those in place. They have to be there before this task.
    type: str
  secret_changes:
    description:
      - For check mode - a task before this one is to write a secret, and check mode has kept it
        from that. Then keys are not compared, a secret may be absent, and the result is C(changed).
    type: bool
    default: false
  refuse:
    description:
      - Codes of warnings with which a plan is refused. The module fails then, and nothing is
        changed. C(CODES) in C(meshsec-json(7)) lists them; C(generation-jump) is one.
    type: list
    elements: str
    default: []
  local:
    description: The peer that this host is. By default it is the one with an address of this host.
    type: str
  netns:
    description: The network namespace to work in.
    type: str
  mesh:
    description: With I(state=absent), the name of a mesh with a file that is broken or gone.
    type: str
  confirm_within:
    description:
      - Take all of it back unless C(meshsec confirm) runs on the host in this time, such as C(60s).
      - The task waits for that, so give it C(async) and C(poll=0), and run C(meshsec confirm) by a
        later task with a new connection. The role has such tasks.
    type: str
  lock_timeout:
    description: How long to wait for another run of meshsec, such as C(30s).
    type: str
  program:
    description: The program, if it is in no directory of C(PATH) and not in /usr/local/bin.
    type: path
    default: meshsec
requirements: [meshsec 0.1 on the host]
notes:
  - Supports check mode and diff mode.
  - Needs root on the host, or CAP_NET_ADMIN.
author: The meshsec project
"""

EXAMPLES = r"""
- name: Apply the mesh
  meshsec:
    content: "{{ lookup('template', 'mesh.toml.j2') }}"

- name: Apply the file that is there, if no other host is cut off by it
  meshsec:
    refuse: [generation-jump, stage-skipped, sas-replaced]

- name: Take the mesh away
  meshsec:
    state: absent

- name: Show the changes that the file in place would make
  meshsec:
  check_mode: true
  diff: true
"""

RETURN = r"""
summary:
  description: How many objects the plan creates, updates, replaces and deletes.
  returned: where there is a plan
  type: dict
  sample: {create: 18, update: 0, replace: 0, delete: 0}
changes:
  description: The changes of the plan, as meshsec prints them (kind, id, peer, action, reason, fields).
  returned: on success, where there is a plan
  type: list
  elements: dict
plan_warnings:
  description: The warnings of the plan, as code and text. Their texts are Ansible's warnings too.
  returned: where there is a plan
  type: list
  elements: dict
traffic:
  description: The effect of the plan on packets that leave, as JSON in meshsec-json(7) describes it (peer, address, before, after).
  returned: where there is a plan
  type: list
  elements: dict
conflicts:
  description: Foreign objects in the way, as code, text, object and peers.
  returned: where there is a plan
  type: list
  elements: dict
generation:
  description: The generation of the mesh, by the file or by the clock.
  returned: where there is a plan
  type: int
local:
  description: The peer that the host is.
  returned: where there is a plan
  type: str
second_guard_missing:
  description: Rules of iptables that the file asks for and that can't be had here.
  returned: where there is a plan
  type: list
  elements: dict
report:
  description: The report of apply or destroy without its plan. JSON in meshsec-json(7) describes it.
  returned: where apply or destroy was run
  type: dict
errors:
  description: The errors of the program (code, text, file, line, column, hint).
  returned: on failure, where the program has printed some
  type: list
  elements: dict
"""

import json
import os
import re
import tempfile

from ansible.module_utils.basic import AnsibleModule

OPTIONS = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "config": {"type": "path", "default": "/etc/meshsec/mesh.toml"},
    "content": {"type": "str"},
    "secret_changes": {"type": "bool", "default": False, "no_log": False},
    "refuse": {"type": "list", "elements": "str", "default": []},
    "local": {"type": "str"},
    "netns": {"type": "str"},
    "mesh": {"type": "str"},
    "confirm_within": {"type": "str"},
    "lock_timeout": {"type": "str"},
    "program": {"type": "path", "default": "meshsec"},
}

# A secret in hex or base64. None belongs in mesh.toml, but somebody may have written one there.
SECRET = re.compile(r"[0-9A-Fa-f]{64}|[0-9A-Za-z+/]{43}=")


class Failure(Exception):
    """The program has refused, or it is missing; with results that the task returns all the same."""

    def __init__(self, message, **results):
        super().__init__(message)
        self.results = results


class Host:
    """Runs of meshsec on this host, with the file and the names that the task gives."""

    def __init__(self, module):
        self.module = module
        self.asked = module.params
        self.config = os.path.realpath(self.asked["config"])
        directory = os.path.dirname(self.config)
        # Relative paths of a file on standard input begin at the working directory. Before a first
        # run there may be no such directory, and so nothing in it.
        self.directory = directory if os.path.isdir(directory) else module.tmpdir
        self.program = self.find_program()
        self.candidate = self.asked["content"]
        if self.candidate is not None and not self.candidate.endswith("\n"):
            self.candidate += "\n"

    def find_program(self):
        name = self.asked["program"]
        if os.path.sep in name:
            return name
        found = self.module.get_bin_path(name, opt_dirs=["/usr/local/sbin", "/usr/local/bin"])
        if not found:
            raise Failure("%s is not on this host: install it, or name it by program" % name)
        return found

    def run(self, words, candidate=None):
        """The exit status and the document of a command."""
        command = [self.program, "--format", "json"]
        if self.asked["netns"]:
            command += ["--netns", self.asked["netns"]]
        if not self.asked["mesh"]:
            command += ["-c", self.config if candidate is None else "-"]
            if self.asked["local"]:
                command += ["--local", self.asked["local"]]
        status, printed, said = self.module.run_command(
            command + words, data=candidate, binary_data=True, cwd=self.directory
        )
        document = parsed(printed)
        if document is None:
            raise self.refusal(words[0], status, said or printed)
        return status, document

    def refusal(self, command, status, said):
        """The errors of a command that has ended without its own document."""
        document = parsed(said)
        if document is None:
            # An error of the command line is text.
            return Failure("meshsec %s: status %s: %s" % (command, status, said.strip()))
        errors = document["errors"]
        for error in errors:
            # The file that the candidate is for.
            error["file"] = self.config if error["file"] == "-" else error["file"]
        return Failure("\n".join(error_line(error) for error in errors), errors=errors)

    def plan(self, *words):
        """The plan for the candidate, or for the file in place."""
        return self.run(["plan"] + list(words), self.candidate)[1]

    def plan_where_secrets_may_be_absent(self):
        """The plan for a snapshot of this host, which needs no secret."""
        _, snapshot = self.run(["snapshot"], self.candidate)
        with tempfile.NamedTemporaryFile("w", dir=self.module.tmpdir) as file:
            json.dump(snapshot, file)
            file.flush()
            return self.plan("--live", file.name)

    def change(self, command):
        """The exit status and the report of apply or destroy."""
        words = [command, "--auto-approve"]
        if self.asked["lock_timeout"]:
            words += ["--lock-timeout", self.asked["lock_timeout"]]
        if self.asked["confirm_within"]:
            words += ["--confirm-within", self.asked["confirm_within"]]
        return self.run(words + self.mesh())

    def mesh(self):
        return ["--mesh", self.asked["mesh"]] if self.asked["mesh"] else []

    def text(self):
        """The file in place, or None."""
        try:
            with open(self.config, encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def put(self, text):
        """Puts a file, whole at any moment, in the place of the one that is there."""
        if text is None:
            os.unlink(self.config)
            return
        handle, path = tempfile.mkstemp(dir=self.module.tmpdir)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        self.module.atomic_move(path, self.config)


def parsed(text):
    try:
        return json.loads(text)
    except ValueError:
        return None


def error_line(error):
    place = [str(error[part]) for part in ("file", "line", "column") if error[part] is not None]
    return "".join(
        [
            "%s: %s" % (error["code"], error["text"]),
            " (%s)" % ":".join(place) if place else "",
            "; %s" % error["hint"] if error["hint"] else "",
        ]
    )


def told(plan):
    """The results of a task that are those of a plan."""
    names = ("summary", "changes", "conflicts", "generation", "local", "second_guard_missing")
    results = {name: plan[name] for name in names}
    results["plan_warnings"] = plan["warnings"]
    results["traffic"] = plan.get("traffic", [])
    return results


def side(change, name):
    """An object before or after a change, or nothing where it is not there."""
    if change["action"] == {"before": "create", "after": "delete"}[name]:
        return ""
    peer = " (peer %s)" % change["peer"] if change["peer"] else ""
    lines = ["%s %s%s" % (change["kind"], change["id"], peer)]
    fields = [field for field in change["fields"] if field[name] is not None]
    lines += ["    %s %s" % (field["name"], field[name]) for field in fields]
    return "\n".join(lines) + "\n"


def kernel_diff(changes):
    return {
        "before_header": "the kernel",
        "after_header": "the kernel as mesh.toml asks for it",
        "before": "".join(side(change, "before") for change in changes),
        "after": "".join(side(change, "after") for change in changes),
    }


def without_secrets(text):
    """A file, with a secret that somebody has written into it by mistake masked."""
    lines = (text or "").splitlines(True)
    return "".join(line if "public_key" in line else SECRET.sub("(masked)", line) for line in lines)


def file_diff(host):
    return {
        "before_header": host.config,
        "after_header": host.config,
        "before": without_secrets(host.text()),
        "after": without_secrets(host.candidate),
    }


def refuse(host, plan):
    """Ends the task where the plan has a warning that it is not to go on with."""
    codes = host.asked["refuse"]
    found = ["%(code)s: %(text)s" % it for it in plan["warnings"] if it["code"] in codes]
    if found:
        raise Failure("the plan is refused, and nothing was changed: %s" % "\n".join(found))


def conflict_lines(document):
    return ["%(code)s: %(text)s" % conflict for conflict in document["conflicts"]]


def checked(host, results, differs):
    """Check mode: the plan alone."""
    try:
        plan = host.plan()
    except Failure:
        if not host.asked["secret_changes"]:
            raise
        plan = host.plan_where_secrets_may_be_absent()
    results.update(told(plan))
    if host.module._diff and plan["changes"]:
        results["diff"].append(kernel_diff(plan["changes"]))
    refuse(host, plan)
    results["changed"] = differs or bool(plan["changes"]) or host.asked["secret_changes"]
    if plan["conflicts"]:
        raise Failure("foreign objects are in the way: %s" % "\n".join(conflict_lines(plan)))


def applied(host, results, differs):
    """The file put in place, where it differs, and applied."""
    # An invalid file, or one that is refused, does not take the place of the old one.
    refuse(host, host.plan())
    before = host.text()
    if differs:
        host.put(host.candidate)
    try:
        report_of(host, "apply", results)
    finally:
        results["changed"] |= differs and stays(host, results)
        if differs and not stays(host, results):
            # The timer would apply the new file, and nothing would take that back.
            host.put(before)
    fail_if_incomplete(host, results)


def stays(host, results):
    """Whether the new file stays: with a time to confirm only if that was done, or nothing was to do."""
    confirmation = results.get("report", {}).get("confirmation") or {}
    confirmed = confirmation.get("verdict") == "confirmed" or results.get("status") == 0
    return confirmed or not host.asked["confirm_within"]


def present(host, results):
    differs = host.candidate is not None and host.candidate != host.text()
    if differs and host.module._diff:
        results["diff"].append(file_diff(host))
    act = checked if host.module.check_mode else applied
    act(host, results, differs)


def absent(host, results):
    if host.asked["content"] is not None:
        raise Failure("content goes with state=present alone: destroy reads the file in place")
    if not host.module.check_mode:
        report_of(host, "destroy", results)
        return fail_if_incomplete(host, results)
    _, shown = host.run(["show"] + host.mesh())
    results["changed"] = bool(shown["ours"])
    if host.module._diff and shown["ours"]:
        before = "".join("%(kind)s %(id)s\n" % it for it in shown["ours"])
        results["diff"].append({"before_header": "the kernel", "before": before, "after": ""})


def report_of(host, command, results):
    """Runs apply or destroy and takes over its report."""
    status, report = host.change(command)
    plan = report.pop("plan")
    results.update(told(plan), report=report, status=status)
    if host.module._diff and plan["changes"]:
        results["diff"].append(kernel_diff(plan["changes"]))
    turned = report["ratchet"] and report["ratchet"]["before"] != report["ratchet"]["after"]
    reverted = report["confirmation"] and report["confirmation"]["reverted"]
    results["changed"] = (bool(report["done"]) and not reverted) or bool(turned)


def fail_if_incomplete(host, results):
    report, status = results["report"], results.pop("status")
    if status == 0:
        return
    lines = [report["stopped"]] if report["stopped"] else []
    lines += ["%(step)s %(id)s: %(error)s" % failure for failure in report["failed"]]
    lines += conflict_lines(report)
    lines += ["not as wanted: %s" % it for it in report["not_as_wanted"]]
    lines += ["packets to %s: %s" % it for it in sorted(report["traffic"].items())]
    if report["ratchet"] and report["ratchet"]["error"]:
        lines.append(report["ratchet"]["error"])
    confirmation = report["confirmation"]
    if confirmation and confirmation["verdict"] != "confirmed":
        lines.append("nobody has confirmed it (%s)" % confirmation["verdict"])
        lines.append("all is as it was before" if confirmation["reverted"] else "not all is as before")
        lines += confirmation["not_as_before"]
    raise Failure("status %s: %s" % (status, "\n".join(lines)))


def main():
    module = AnsibleModule(
        argument_spec=OPTIONS,
        supports_check_mode=True,
        mutually_exclusive=[("mesh", "content"), ("mesh", "local")],
    )
    results = {"changed": False, "diff": []}
    try:
        act = present if module.params["state"] == "present" else absent
        if module.params["mesh"] and act is present:
            raise Failure("mesh goes with state=absent alone: apply needs the file")
        act(Host(module), results)
    except Failure as failure:
        results.update(failure.results)
        # Ansible prints all results of a task that fails: the message is not to be lost in them.
        results.pop("changes", None)
        module.fail_json(msg=str(failure), **results)
    for warning in results.get("plan_warnings", []):
        # That keys are not compared is known where a secret is to come still.
        if warning["code"] != "keys-not-checked":
            module.warn(warning["text"])
    module.exit_json(**results)


if __name__ == "__main__":
    main()
