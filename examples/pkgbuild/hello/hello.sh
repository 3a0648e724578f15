#!/bin/bash
echo "Hello from $(. /etc/os-release; echo "$ID")"
