module example.invalid/ticker

go 1.18
