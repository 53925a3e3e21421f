//! How the page looks, on a screen and on paper.

pub(super) const SHEET: &str = "
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733; max-width: 66rem; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.7rem; margin-bottom: .4rem; }
h2 { font-size: 1.3rem; margin-top: 2.6rem; border-bottom: 2px solid #d4dbe3; padding-bottom: .3rem; }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .5rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid #e3e8ee; overflow-wrap: break-word; }
th { white-space: nowrap; color: #51606f; font-weight: 600; } .legend { color: #51606f; font-size: .9rem; }
table.facts th { width: 17rem; } table.done td:nth-child(2) { min-width: 11rem; }
td.n { text-align: right; white-space: nowrap; } td.t { white-space: nowrap; }
p.good, p.bad, p.plain { padding: .7rem 1rem; border-left: .35rem solid; }
p.good { background: #eaf6ee; border-color: #2c8a4b; } p.bad { background: #fdecea; border-color: #c0392b; }
p.plain { background: #eef2f6; border-color: #7b8a99; }
.yes { color: #1f7a3d; } .no { color: #b3261e; font-weight: 600; }
code, pre { font: 13px/1.45 ui-monospace, monospace; background: #f3f5f8; }
code { padding: .05rem .25rem; overflow-wrap: anywhere; } pre { padding: .7rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere; }
@media print { body { max-width: none; margin: 0; } h2 { break-before: auto; } tr { break-inside: avoid; } }
";
