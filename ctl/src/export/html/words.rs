//! Plain words for whoever does not know what the records' own mean.

/// What a thing is that was given to a session, and looked for after its end.
pub(super) fn of_thing(what: &str) -> &'static str {
    const THINGS: &[(&str, &str)] = &[
        ("godebug-gateway@", "the program that lets the person\u{2019}s tools in"),
        ("listener on port", "the network port that it listened on"),
        ("nftables table", "the firewall that lets only these computers reach the port"),
        ("firewalld", "the opening of the port in the host\u{2019}s firewall"),
        ("port ", "the same opening, as the kernel has it"),
        ("godebug-dlv@", "the debugger"),
        ("godebug-guard@", "the program that puts the service right if its debugger is killed"),
        ("godebug-image@", "the program that looks at copies of the memory"),
        ("godebug-exec@", "the program that held the service at its start"),
        ("godebug-deadman@", "the timer that ends the session if nothing else does"),
        ("tracer of process", "a debugger\u{2019}s hold on the service"),
        ("breakpoints in the text", "changes to the service\u{2019}s program code"),
        ("AppArmor", "leave to use the network, in the host\u{2019}s security rules"),
        ("SELinux", "leave to use the network, in the host\u{2019}s security rules"),
    ];
    if what.starts_with("process ") && what.ends_with(" stopped") {
        return "a service that stands still";
    }
    if what.starts_with("process ") && what.ends_with(" frozen") {
        return "a service that is kept from running";
    }
    if what.ends_with("which did not run before") {
        return "the service itself, which was started for the session";
    }
    if what.ends_with("out of its pool") {
        return "a service that gets no work from its load balancer";
    }
    THINGS.iter().find(|(part, _)| what.starts_with(part)).map_or("", |(_, words)| words)
}

/// What was done, by the transcript\u{2019}s word for it.
pub(super) fn of_operation(operation: &str) -> &'static str {
    match operation {
        "evaluate" => "look at a value, or compute one from others",
        "variables" => "look at variables",
        "stack" => "look at where the program is, and with which values",
        "breakpoints" => "set or clear a place at which the program stops",
        "watchpoints" => "stop the program when a value changes",
        "snapshot" => "copy the program, in which it stands for a moment, and look at the copy",
        "condition" => "show only copies for which this is true",
        "goroutines" => "look at what all parts of the program are doing, in a copy of it",
        "heap" => "look at what fills the program\u{2019}s memory, in a copy of it",
        "run" => "stop the program, or let it go on",
        "set" => "change a value",
        "find" => "look for a place in the program",
        "read-memory" => "read memory as it is",
        "connection" | "request" => "anything else that the person\u{2019}s tool asked for",
        _ => "",
    }
}
