//! What fills a program's memory, as a person reads it.

use crate::terminal::{BOLD, DIM, painted, safe, shortened, table};
use godebug_api::image::Heap;

/// Types can be as long as their authors like.
const TYPE_COLUMNS: usize = 48;

pub(crate) fn heap(heap: &Heap) -> String {
    let all = format!("{} in {} objects", size(heap.in_use_bytes), heap.objects);
    let mut text = format!(
        "{} of {}, {}  {}\nbeside them {} of stacks\n\n",
        painted(BOLD, &all),
        heap.unit,
        safe(&heap.time),
        painted(DIM, &format!("(stopped for {:.2} ms)", heap.pause_ms)),
        size(heap.stack_bytes),
    );
    let mut rows = vec![["HELD BY", "TYPE", "SIZE", "OBJECTS"].map(str::to_owned).to_vec()];
    rows.extend(heap.holders.iter().map(|holder| {
        let kind = shortened(&safe(&holder.kind), TYPE_COLUMNS);
        vec![
            holder_name(&holder.name, holder.goroutines),
            kind,
            size(holder.bytes),
            holder.objects.to_string(),
        ]
    }));
    let nobody = "nobody that was found (garbage, or Go's runtime)".to_owned();
    rows.push(vec![
        nobody,
        String::new(),
        size(heap.unheld_bytes),
        heap.unheld_objects.to_string(),
    ]);
    text.push_str(&table(&rows));
    if heap.left_out > 0 {
        text.push_str(&format!("{} who hold less are left out; --top shows more\n", heap.left_out));
    }
    text.push_str(&format!("\n{}", table(&by_type(heap))));
    text.push_str(
        "\nWhat several hold is counted for the first: own variables, then goroutines, then Go's packages.\n",
    );
    text
}

/// By type; where the program's types were not understood, by size.
fn by_type(heap: &Heap) -> Vec<Vec<String>> {
    if heap.types.is_empty() {
        let mut rows = vec![["OBJECTS OF", "SIZE", "OBJECTS"].map(str::to_owned).to_vec()];
        rows.extend(
            heap.sizes.iter().map(|of| {
                vec![format!("{} bytes", of.size), size(of.bytes), of.objects.to_string()]
            }),
        );
        return rows;
    }
    let names = ["TYPE", "SIZE", "OBJECTS", "MOSTLY HELD BY"];
    let mut rows = vec![names.map(str::to_owned).to_vec()];
    rows.extend(heap.types.iter().map(|of| {
        let share = of.held_bytes * 100 / of.bytes.max(1);
        let holder = holder_name(&of.held_by, of.goroutines);
        let holder = if share < 100 { format!("{holder} ({share} %)") } else { holder };
        let kind = shortened(&safe(&of.kind), TYPE_COLUMNS);
        vec![kind, size(of.bytes), of.objects.to_string(), holder]
    }));
    rows
}

/// A size for a person: `712 B`, `18 KB`, `4.5 MB`, `380 MB`.
fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..1_000_000 => format!("{} KB", bytes.div_ceil(1000)),
        _ => godebug_api::forecast::megabytes(bytes),
    }
}

fn holder_name(name: &str, goroutines: u64) -> String {
    let name = safe(name);
    match goroutines {
        0 => name,
        1 => format!("1 goroutine that began in {name}"),
        many => format!("{many} goroutines that began in {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use godebug_api::image::{Holder, ObjectSize, TypeUse};

    #[test]
    fn holders_are_named_and_their_words_made_safe() {
        let holder = |name: &str, goroutines| Holder {
            name: name.to_owned(),
            kind: "map[string]*main.entry".to_owned(),
            bytes: 5_000_000,
            objects: 7,
            goroutines,
        };
        let all = Heap {
            time: "t".to_owned(),
            unit: "shop".parse().unwrap(),
            pause_ms: 1.0,
            in_use_bytes: 6_000_000,
            objects: 9,
            stack_bytes: 0,
            unheld_bytes: 1_000_000,
            unheld_objects: 2,
            holders: vec![holder("main.cache\u{1b}[2J", 0), holder("main.worker", 3)],
            left_out: 1,
            types: vec![TypeUse {
                kind: "main.order".to_owned(),
                bytes: 4_000_000,
                objects: 5,
                held_by: "main.worker".to_owned(),
                goroutines: 3,
                held_bytes: 3_000_000,
            }],
            untyped_bytes: 0,
            untyped_objects: 0,
            sizes: vec![ObjectSize { size: 48, bytes: 480, objects: 10 }],
        };
        let text = heap(&all);
        assert!(text.contains("main.cache") && !text.contains("\u{1b}[2J"), "{text}");
        assert!(text.contains("3 goroutines that began in main.worker"), "{text}");
        assert!(text.contains("3 goroutines that began in main.worker (75 %)"), "{text}");
        assert!(!text.contains("48 bytes"), "{text}");
        let text = super::heap(&Heap { types: Vec::new(), ..all });
        assert!(text.contains("48 bytes"), "{text}");
        assert!(text.contains("5.0 MB") && text.contains("1 who hold less"), "{text}");
    }
}
