"""Prints all that firewalld says about itself, runtime and permanent, one setting a line. One process
instead of a dozen runs of firewall-cmd, which take a third of a second each."""

import dbus

NAME = "org.fedoraproject.FirewallD1"
bus = dbus.SystemBus()


def at(path, interface):
    return dbus.Interface(bus.get_object(NAME, path), NAME + interface)


def plain(value):
    if isinstance(value, dict):
        return {str(key): plain(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return int(value) if isinstance(value, (int, dbus.Boolean)) else str(value)


def show(kind, what, value):
    for key, setting in value.items() if isinstance(value, dict) else [("", value)]:
        # What zones list has no order of its own.
        setting = sorted(plain(setting), key=str) if isinstance(setting, list) else plain(setting)
        print(kind, what, key, setting)


top, config = at("/org/fedoraproject/FirewallD1", ""), at("/org/fedoraproject/FirewallD1/config", ".config")
zones, policies = (at("/org/fedoraproject/FirewallD1", "." + kind) for kind in ("zone", "policy"))

show("runtime", "default zone", top.getDefaultZone())
show("runtime", "active zones", plain(zones.getActiveZones()))
for zone in sorted(zones.getZones()):
    show("runtime", "zone " + zone, zones.getZoneSettings2(zone))
for policy in sorted(policies.getPolicies()):
    show("runtime", "policy " + policy, policies.getPolicySettings(policy))
for zone in sorted(config.getZoneNames()):
    show("permanent", "zone " + zone, at(config.getZoneByName(zone), ".config.zone").getSettings2())
for policy in sorted(config.getPolicyNames()):
    show("permanent", "policy " + policy, at(config.getPolicyByName(policy), ".config.policy").getSettings())
for service in sorted(config.getServiceNames()):
    show("permanent", "service", service)

direct = at("/org/fedoraproject/FirewallD1", ".direct")
show("runtime", "direct rules", direct.getAllRules())
show("runtime", "direct passthroughs", direct.getAllPassthroughs())
saved = at("/org/fedoraproject/FirewallD1/config", ".config.direct")
show("permanent", "direct", saved.getSettings())
