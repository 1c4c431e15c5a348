##! How a node that runs under zeek-cluster-agent says that it is ready, and how the agent asks it, without Broker.
##!
##! Ready: the node runs the agent's program once its main loop runs.
##! Questions: the agent puts a file "req" into a directory of this node that no other user can enter, one question a line
##! ("reqid TAB verb TAB argument"), and then requests this node's metrics, which makes the node read the file at once. Without
##! a metrics port the node looks once a second. It answers each question with a file "rep." and the reqid: one line "ok" or
##! "error", then the value or the reason. Files are written beside and renamed, so nobody sees half of one.
##!
##! Zeek 8.0 to 9.0. The agent writes this file into the node's directory and loads it last.

@load base/frameworks/input
@load base/frameworks/telemetry

module ZeekClusterAgent;

export {
	## The directory through which the agent asks.
	const channel = getenv("ZCA_CHANNEL");

	## The agent's own program, which tells it that this node is ready.
	const program = getenv("ZCA_PROGRAM");

	## A line of the file.
	type Line: record {
		text: string;
	};

	## What the node knows of its packets.
	type Packets: record {
		pkts_recvd: count;
		pkts_dropped: count;
		pkts_link: count;
		bytes_recvd: count;
		## How many seconds the packets that are being analyzed are behind.
		lag: double;
	};

	## The main loop runs: listeners and the packet source are open, and all handlers of zeek_init have run.
	global running: event();

	## A line was read.
	global asked: event(description: Input::EventDescription, kind: Input::Event, text: string);
}

const stream_name = "zeek-cluster-agent";

# The file may be read again: by anybody's request for metrics, or after the agent wrote more questions into it.
global answered: set[string] &create_expire=10min;

# A pipe: without this a line is seen when the buffer is full, and lost if the node is killed.
global own_stdout: file;

function answer(reqid: string, success: bool, text: string)
	{
	local path = fmt("%s/rep.%s", channel, reqid);
	local beside = fmt("%s.new", path);
	local f = open(beside);
	write_file(f, fmt("%s\n%s", success ? "ok" : "error", text));
	close(f);
	rename(beside, path);
	}

function get_id_value(reqid: string, id: string)
	{
	local value = lookup_ID(id);

	# These two strings stand for errors.
	if ( type_name(value) == "string" )
		{
		local text = value as string;

		if ( text == "<unknown id>" || text == "<no ID value>" )
			{
			answer(reqid, F, text[1:-1]);
			return;
			}
		}

	answer(reqid, T, to_json(value));
	}

function get_packets(): Packets
	{
	local s = get_net_stats();
	local lag = interval_to_double(current_time() - network_time());
	return Packets($pkts_recvd=s$pkts_recvd, $pkts_dropped=s$pkts_dropped, $pkts_link=s$pkts_link,
	    $bytes_recvd=s$bytes_recvd, $lag=lag);
	}

event ZeekClusterAgent::asked(description: Input::EventDescription, kind: Input::Event, text: string)
	{
	local words = split_string(text, /\t/);

	if ( |words| != 3 || words[0] in answered )
		return;

	add answered[words[0]];

	if ( words[1] == "get_id_value" )
		get_id_value(words[0], words[2]);
	else if ( words[1] == "get_net_stats" )
		answer(words[0], T, to_json(get_packets()));
	else
		answer(words[0], F, fmt("no such dispatch: %s", words[1]));
	}

hook Telemetry::sync()
	{
	if ( channel != "" )
		Input::force_update(stream_name);
	}

event ZeekClusterAgent::running()
	{
	# In the background, and its output is this node's stderr.
	if ( program != "" )
		system(fmt("%s notify --ready", safe_shell_quote(program)));
	}

event zeek_init() &priority=-10
	{
	own_stdout = open("/dev/stdout");
	set_buf(own_stdout, F);

	if ( channel != "" )
		Input::add_event([$source=fmt("%s/req", channel), $reader=Input::READER_RAW, $mode=Input::REREAD,
		    $name=stream_name, $fields=Line, $ev=asked, $want_record=F]);

	schedule 0sec { ZeekClusterAgent::running() };
	}
