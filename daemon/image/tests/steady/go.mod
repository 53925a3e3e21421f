module steady

go 1.22
