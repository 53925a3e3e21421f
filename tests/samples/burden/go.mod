module example.invalid/burden

go 1.18
