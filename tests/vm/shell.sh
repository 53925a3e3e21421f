#!/bin/sh
# Runs the shell lines that come in on the second serial port, one after the other. Each comes after
# its number and its length; the answer is the number, the exit status and the lengths of what was
# printed on standard output and error, then both.
exec </dev/ttyS1 >/dev/ttyS1
stty raw -echo </dev/ttyS1
work=/run/harness
mkdir -p $work
touch $work/booted
cd /
echo READY
while read -r number length; do
	head -c "$length" >$work/line
	sh $work/line </dev/null >$work/out 2>$work/err
	echo "DONE $number $? $(stat -c %s $work/out) $(stat -c %s $work/err)"
	cat $work/out $work/err
done
