module example.invalid/museum

go 1.18
