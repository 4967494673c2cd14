# Copyright: (c) 2026, microvm.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""That the stand-in for nixpkgs is as strict as the modules whose options it lists, and no stricter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.microvm.fleet.tests.nix.fleet import HERE, NixError, nix
from ansible_collections.microvm.fleet.tests.nix.listed import faults_of_networkd, unlisted

FLAKES = f"""
let
  nixpkgs = (import {HERE}/standin/nixpkgs/flake.nix).outputs {{ self = {{ }}; }};
  microvm = (import {HERE}/standin/microvm/flake.nix).outputs {{ self = {{ }}; inherit nixpkgs; }};
  inherit (nixpkgs) lib;
  system = modules: lib.nixosSystem {{ system = "x86_64-linux"; inherit modules; }};
  guest = module: (system [ microvm.nixosModules.microvm module ]).config;
  host = module: (system [ microvm.nixosModules.host module ]).config;
  evaluate = modules: (lib.evalModules {{ inherit modules; }}).config;
  option = type: {{ options.x = lib.mkOption {{ inherit type; }}; }};
in
"""
SAID = "system.build.said"


def said(module: str) -> Any:
    """What a host with *module* has of what the module sets."""
    return nix(f"{FLAKES} (system [ {module} ]).config.{SAID}")


def refusal(expression: str) -> str:
    with pytest.raises(NixError) as caught:
        nix(FLAKES + expression)
    return str(caught.value)


def options(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / "options" / f"{name}.json").read_text(encoding="utf-8"))["options"]
    return found


def test_every_listed_option_is_declared_with_a_type() -> None:
    described = nix(f"""{FLAKES}
        let
          describe = prefix: options: lib.concatLists (lib.mapAttrsToList (name: option:
            let path = "${{prefix}}${{name}}"; in
            if !(lib.isOption option) then describe "${{path}}." option
            else [ [ path option.type.description ] ] ++ below path option.type) (removeAttrs options [ "_module" ]));
          below = path: type:
            if type.nestedTypes ? elemType then
              below (path + {{ listOf = ".*"; attrsOf = ".<name>"; }}.${{type.name}} or "") type.nestedTypes.elemType
            else if type.name == "submodule" then describe "${{path}}." (type.getSubOptions [ ])
            else [ ];
        in
        describe "" (system [ microvm.nixosModules.microvm ]).options
    """)
    assert all(text for _name, text in described)
    listed = {name.replace('"', "") for kind in ("nixos", "microvm") for name in options(kind)}
    own = {"assertions", "warnings", "system.build", "system.nixos.version"}
    # Only read.
    own |= {"services.displayManager.sessionData", "services.xserver.displayManager"}
    assert {name for name, _text in described} == {name for name in listed if "._module" not in name} | own


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"services": {"k3s": {"enable": True, "enabled": True}}}, ["services.k3s.enabled"]),
        ({"services": {"k4s": {"enable": True}}}, ["services.k4s"]),
        ({"services": {"k3s": {"manifests": {"a": {"contents": {}}}}}}, ["services.k3s.manifests.<name>.contents"]),
        (
            {"systemd": {"services": {"a": {"serviceConfig": {"Any": 1}, "patch": []}}}},
            ["systemd.services.<name>.patch"],
        ),
        ({"systemd": {"timers": {"a": {}}}}, ["systemd.timers"]),
        ({"microvm": {"volumes": [{"image": "a"}, {"mount": "/a"}]}}, ["microvm.volumes.*.mount"]),
        ({"microvm": {"autostart": ["a"]}, "fleet": {"profiles": {}}}, []),
        ({"boot": {"kernel": {"sysctl": {"net.ipv4.ip_forward": 1}}}}, []),
        ({"fileSystems": {"/a": {"options": ["ro"], "fsFreq": 0}}}, ["fileSystems.<name>.fsFreq"]),
    ],
)
def test_what_no_list_has_is_found(said: dict[str, Any], expected: list[str]) -> None:
    assert unlisted(said) == expected


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("networks", {"networkConfig": {"DHCP": "ipv4", "IPv6AcceptRA": False}}, []),
        ("networks", {"networkConfig": {"DHCP": "v4"}}, ["networks.x.networkConfig.DHCP = 'v4'"]),
        ("networks", {"linkConfig": {"MTUBytes": "1400"}}, ["networks.x.linkConfig.MTUBytes = '1400'"]),
        ("networks", {"ipv6Prefixes": [{"Prefix": "a"}, {"Prefx": "a"}]}, ["networks.x.ipv6Prefixes.Prefx = 'a'"]),
        ("netdevs", {"netdevConfig": {"MACAddress": "02"}}, ["netdevs.x.netdevConfig.MACAddress = '02'"]),
        ("links", {"matchConfig": {"Path": "a"}}, ["links.x.matchConfig.Path = 'a'"]),
    ],
)
def test_what_nixos_does_not_take_of_networkd_is_found(kind: str, settings: Any, expected: list[str]) -> None:
    assert faults_of_networkd({"systemd": {"network": {kind: {"x": settings}}}}) == expected


TYPES: list[tuple[str, str, str, str]] = [
    # option, a value that it takes, one that it refuses, words of the refusal
    ("boot.kernelModules", '[ "tap" ]', '"tap"', "not of type `list of string'"),
    ("boot.kernelParams", '[ "a=1" "b=\\"c d\\"" ]', '[ "a b" ]', "spaces inside double quotes"),
    ("boot.kernel.sysctl", '{ "net.ipv4.ip_forward" = 1; }', '{ "net.core.rmem_max" = -1; }', "unsigned integer"),
    ("environment.etc.x.text", '"a"', "1", "null or (strings concatenated"),
    ("fileSystems.x.options", '[ "ro" ]', '[ "" ]', "non-empty string"),
    ("fileSystems.x.mountPoint", '"/data"', '"/data/"', "without trailing slash"),
    ("networking.firewall.allowedTCPPorts", "[ 22 ]", "[ 65536 ]", "16 bit unsigned integer"),
    ("networking.firewall.checkReversePath", '"loose"', '"lose"', 'boolean or (one of "strict", "loose")'),
    ("networking.hostName", '"web-1"', '"web.1"', "string matching the pattern"),
    ("networking.nat.forwardPorts", '[ { sourcePort = "1:2"; } ]', '[ { sourcePort = "1"; } ]', "[[:digit:]]"),
    ("networking.nftables.tables.x.family", '"inet"', '"ipv4"', 'one of "ip", "ip6"'),
    ("services.k3s.extraFlags", '[ "--a" ]', "1", "string or (list of string)"),
    ("services.k3s.role", '"agent"', '"master"', 'one of "server", "agent"'),
    ("services.k3s.tokenFile", '"/run/token"', '"run/token"', "null or (absolute path)"),
    ("services.kubernetes.kubelet.taints.x.effect", '"NoSchedule"', '"None"', "one of"),
    ("services.openssh.settings.PermitRootLogin", '"no"', '"never"', "null or (one of"),
    ("systemd.services.x.after", '[ "a@%i.service" ]', '[ "a" ]', "name of a unit"),
    ("systemd.services.x.serviceConfig", '{ Exec = [ "a" 1 ]; }', "{ Exec = { }; }", "systemd option"),
    ("systemd.network.networks.x.addresses", '[ { Address = "a"; } ]', '[ "a" ]', "attribute set of"),
    ("systemd.tmpfiles.settings.x.y.d.mode", '"0755"', "755", "not of type `string'"),
    ("users.users.x.description", '"a b"', '"a:b"', "not containing newlines or colons"),
    ("users.users.x.openssh.authorizedKeys.keys", '[ "a\\n" ]', '[ "a\\nb\\n" ]', "single-line string"),
    ("users.users.x.shell", '"/bin/sh"', '"sh"', "null or (package or"),
    ("virtualisation.docker.daemon.settings", "{ a.b = [ 1 ]; }", "lib.mkIf 1 { }", "no Boolean"),
]


@pytest.mark.parametrize(("option", "right", "wrong", "words"), TYPES, ids=[row[0] for row in TYPES])
def test_values_are_of_the_listed_type(option: str, right: str, wrong: str, words: str) -> None:
    path = json.dumps(option.split(".")[:2]).replace(",", "")
    assert nix(f"{FLAKES} lib.hasAttrByPath {path} (system [ {{ {option} = {right}; }} ]).config.{SAID}")
    message = refusal(f"(system [ ({{ lib, ... }}: {{ {option} = {wrong}; }}) ]).config.system.build.toplevel.outPath")
    assert words in message


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("services.k3s.enabled = true;", "The option `services.k3s.enabled' does not exist"),
        ("systemd.services.x.path2 = [ ];", "The option `systemd.services.x.path2' does not exist"),
        ("systemd.timers.x = { };", "The option `systemd.timers' does not exist"),
        ("config = { }; networking = { };", "beside them `networking'"),
        ("services.k3s = 1;", "`services.k3s' is a group of options"),
        ("services.k3s.docker = true;", "removed or renamed"),
        ('networking.hostName = lib.mkDefault (lib.mkIf true "a");', "belong around"),
        ('assertions = [ { assertion = false; message = "as wished"; } ];', "Failed assertions:\n       - as wished"),
    ],
)
def test_what_is_not_listed_or_misused_is_an_error_that_names_it(module: str, words: str) -> None:
    wished = f'{{ _file = "the-file.nix"; imports = [ ({{ lib, ... }}: {{ {module} }}) ]; }}'
    message = refusal(f"(system [ {wished} ]).config.system.build.toplevel.outPath")
    assert words in message
    assert "the-file.nix" in message or "assertion" in module


def test_a_value_nobody_set_is_an_error_where_it_is_read() -> None:
    message = refusal('(guest { microvm.volumes = [ { image = "a"; } ]; }).microvm.volumes')
    assert "was accessed but has no value defined" in message


NAMED = """
  lib.types.submodule ({ name, ... }: {
    options.n = lib.mkOption { default = name; };
    options.m = lib.mkOption { };
  })
"""
FREE = """
  lib.types.submodule {
    freeformType = lib.types.attrsOf lib.types.int;
    options.a = lib.mkOption { default = 1; };
  }
"""
MERGES: list[tuple[str, str, list[str], Any]] = [
    ("priorities", "lib.types.int", ["lib.mkDefault 1", "2"], 2),
    ("force", "lib.types.int", ["1", "lib.mkForce 3", "lib.mkDefault 2"], 3),
    ("conditions", "lib.types.int", ["lib.mkIf false 1", "lib.mkMerge [ (lib.mkIf true 4) ]"], 4),
    ("order", "lib.types.listOf lib.types.int", ["lib.mkAfter [ 3 ]", "[ 2 ]", "lib.mkBefore [ 1 ]"], [1, 2, 3]),
    ("lines", "lib.types.lines", ['"a"', '"b"'], "a\nb"),
    ("attributes", "lib.types.attrsOf lib.types.int", ["{ a = 1; }", "{ b = lib.mkIf false 1; }"], {"a": 1}),
    ("anything", "lib.types.anything", ["{ a.b = 1; }", "{ a.c = [ 2 ]; }"], {"a": {"b": 1, "c": [2]}}),
    ("null", "lib.types.nullOr lib.types.int", ["null", "lib.mkOverride 50 5"], 5),
    ("either", "lib.types.either lib.types.int lib.types.str", ["lib.mkDefault 1", '"a"'], "a"),
    ("coerced", "lib.types.coercedTo lib.types.int toString lib.types.str", ["7"], "7"),
    ("submodule", NAMED, ["{ m = 1; }", "{ }"], {"m": 1, "n": "x"}),
    ("freeform", FREE, ["{ b = 2; }"], {"a": 1, "b": 2}),
]


@pytest.mark.parametrize(("type_", "values", "expected"), [row[1:] for row in MERGES], ids=[row[0] for row in MERGES])
def test_definitions_are_merged(type_: str, values: list[str], expected: Any) -> None:
    modules = " ".join(f"{{ x = {value}; }}" for value in values)
    assert nix(f"{FLAKES} (evaluate [ (option ({type_})) {modules} ]).x") == expected


@pytest.mark.parametrize(
    ("type_", "values", "words"),
    [
        ("lib.types.int", ["1", "2"], "conflicting definition values"),
        ("lib.types.nullOr lib.types.int", ["1", "null"], "both null and not null"),
        ("lib.types.package", ["1"], "not of type `package'"),
        ("lib.types.submodule { }", ["{ y = 1; }"], "The option `x.y' does not exist"),
    ],
)
def test_definitions_that_do_not_go_together(type_: str, values: list[str], words: str) -> None:
    modules = " ".join(f"{{ x = {value}; }}" for value in values)
    assert words in refusal(f"(evaluate [ (option ({type_})) {modules} ]).x")


def test_modules_see_each_other_and_their_arguments() -> None:
    evaluated = """lib.evalModules {
      specialArgs.given = 2;
      modules = [
        ({ config, extra, given, ... }: {
          imports = [ (option lib.types.int) ];
          options.y = lib.mkOption { type = lib.types.int; default = config.x + extra + given; };
        })
        { _module.args.extra = 10; x = lib.mkDefault 1; }
      ];
    }"""
    assert nix(f"{FLAKES} ({evaluated}).config") == {"x": 1, "y": 13}
    assert nix(f"{FLAKES} (({evaluated}).extendModules {{ modules = [ {{ x = 5; }} ]; }}).config") == {"x": 5, "y": 17}


def files(module: str) -> dict[str, dict[str, Any]]:
    found = nix(f"{FLAKES} (system [ {module} ]).config.system.build.files")
    return {entry["target"]: entry for entry in found}


def test_units_are_written_as_systemd_reads_them() -> None:
    made = files("""({ lib, ... }: {
      systemd.services."a@" = {
        description = "A %i";
        after = [ "b.service" "c.service" ];
        wantedBy = [ "multi-user.target" ];
        restartIfChanged = false;
        unitConfig.ConditionPathExists = "/x";
        serviceConfig = { Type = "oneshot"; ExecStart = [ "" "/bin/true" ]; PrivateTmp = true; };
        path = lib.mkForce [ ];
      };
      systemd.services."a@1" = { overrideStrategy = "asDropin"; serviceConfig.TimeoutStopSec = 60; };
      systemd.targets.t.wants = [ "a@1.service" ];
    })""")
    assert made["systemd/system/a@.service"]["text"].split("Environment=")[0] == (
        "[Unit]\nAfter=b.service c.service\nConditionPathExists=/x\nDescription=A %i\n\n[Service]\n"
    )
    assert made["systemd/system/a@.service"]["text"].endswith(
        "ExecStart=\nExecStart=/bin/true\nPrivateTmp=true\nType=oneshot\nX-RestartIfChanged=false\n\n"
    )
    assert made["systemd/system/multi-user.target.wants/a@.service"]["link"] == "../a@.service"
    assert made["systemd/system/a@1.service.d/overrides.conf"]["text"] == "[Service]\nTimeoutStopSec=60\n\n"
    assert made["systemd/system/t.target"]["text"] == "[Unit]\nWants=a@1.service\n\n"


def test_the_rest_of_etc() -> None:
    made = files("""{
      networking = { hostName = "tower"; useNetworkd = true; nftables.enable = true;
        nftables.tables.t = { family = "inet"; content = "set s { }"; }; };
      boot = { kernelModules = [ "tap" ]; kernel.sysctl."net.ipv4.ip_forward" = true; };
      environment.etc."a/b" = { text = "c"; mode = "0600"; };
      systemd.network.networks."50-x" = { matchConfig.Name = "x"; address = [ "10.0.0.1/24" ];
        dhcpServerStaticLeases = [ { MACAddress = "02:00:00:00:00:01"; Address = "10.0.0.2"; } ]; };
      systemd.network.netdevs."50-x".netdevConfig = { Name = "x"; Kind = "bridge"; };
      systemd.tmpfiles.settings.s."/d".d = { mode = "0700"; user = "root"; };
      users.users.root.openssh.authorizedKeys.keys = [ "key" ];
      users.users.u = { group = "kvm"; isSystemUser = true; };
    }""")
    texts = {name: entry.get("text") for name, entry in made.items()}
    assert texts["a/b"] == "c"
    assert made["a/b"]["mode"] == "0600"
    assert texts["modules-load.d/nixos.conf"] == "tap\n"
    assert texts["sysctl.d/60-nixos.conf"] == "net.ipv4.ip_forward = 1\n"
    assert texts["systemd/network/50-x.network"] == (
        "[Match]\nName=x\n\n[Network]\nAddress=10.0.0.1/24\n\n"
        "[DHCPServerStaticLease]\nAddress=10.0.0.2\nMACAddress=02:00:00:00:00:01\n\n"
    )
    assert texts["systemd/network/50-x.netdev"] == "[NetDev]\nKind=bridge\nName=x\n\n"
    assert texts["tmpfiles.d/s.conf"] == "'d' '/d' '0700' 'root' '-' '-' \n"
    assert texts["ssh/authorized_keys.d/root"] == "key\n"
    assert texts["hostname"] == "tower\n"
    assert "u u -:kvm" in str(texts["sysusers.d/00-nixos.conf"])
    assert "table inet t {\nset s { }\n}" in str(texts["nftables.nft"])
    assert "X-ReloadIfChanged=true" in str(texts["systemd/system/nftables.service"])


def test_a_copy_of_the_stand_ins_has_all_that_they_are_made_of(tmp_path: Path) -> None:
    # As README.md and the testbed put them onto a host: what links lead to, in their place.
    shutil.copytree(HERE / "standin", tmp_path / "standin")
    assert [path for path in (tmp_path / "standin").rglob("*") if path.is_symlink()] == []
    guest = """
      let
        nixpkgs = (import (standin + "/nixpkgs/flake.nix")).outputs { self = { }; };
        microvm = (import (standin + "/microvm/flake.nix")).outputs { self = { }; inherit nixpkgs; };
      in
      (nixpkgs.lib.nixosSystem {
        system = "x86_64-linux";
        modules = [ microvm.nixosModules.microvm { microvm.hypervisor = "qemu"; } ];
      }).config.microvm.declaredRunner.outPath
    """
    copied, own = (nix(f"let standin = {place}; in {guest}") for place in (tmp_path / "standin", HERE / "standin"))
    assert copied == own


def test_the_host_module_has_the_units_of_microvm_nix() -> None:
    made = nix(f"""{FLAKES} map (f: f.target)
      (host {{ microvm.autostart = [ "web" ]; }}).system.build.files""")
    units = {name.rpartition("/")[2] for name in made if name.startswith("systemd/system/")}
    helpers = ("tap-interfaces", "macvtap-interfaces", "pci-devices", "virtiofsd", "set-booted")
    assert {f"microvm-{name}@.service" for name in helpers} | {"microvm@.service", "microvms.target"} <= units
