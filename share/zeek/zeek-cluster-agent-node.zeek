##! The check-in of a node that runs under zeek-cluster-agent, and the agent's questions to it.
##!
##! Speaks Management::Node::API over Broker, on the topic "zeek/management/node", as the node script of Zeek's management
##! framework does; needs none of that framework, and stands back where its script is loaded. Where the agent does not
##! listen for Broker peers (ZEEK_AGENT_PORT is not set), the node checks in by running the agent's program.
##!
##! Zeek 5.0 to 9.0. The agent writes this file into the node's directory and loads it last.

@ifndef ( Management::Node::API::notify_node_hello )

@load base/frameworks/broker

module ZeekClusterAgent;

export {
	## The name of this node, also where it takes no part in a cluster.
	const node = getenv("ZCA_NODE");

	## Where all agents and nodes of a host talk to each other.
	const node_topic = "zeek/management/node";

	## Where the agent accepts Broker peers.
	const agent_address = getenv("ZEEK_AGENT_ADDR");
	const agent_port = getenv("ZEEK_AGENT_PORT");

	## The agent's own program, which tells it that this node is ready.
	const program = getenv("ZCA_PROGRAM");

	## The fields of Management::Result, in their order: that is what a peer sees of a record.
	type Result: record {
		reqid: string;
		success: bool &default=T;
		instance: string &optional;
		data: any &optional;
		error: string &optional;
		node: string &optional;
	};
}

module Management::Node::API;

export {
	## From a node: it is up.
	global notify_node_hello: event(node: string);

	## From the agent: do this, if you are among the nodes or none is named.
	global node_dispatch_request: event(reqid: string, action: vector of string, nodes: set[string]);

	## From a node: what came of it.
	global node_dispatch_response: event(reqid: string, result: ZeekClusterAgent::Result);
}

module ZeekClusterAgent;

## All handlers of zeek_init have run: listeners are there, and a port in use has ended this process.
global initialized: event();

function get_id_value(args: vector of string, result: Result)
	{
	if ( |args| == 0 )
		{
		result$success = F;
		result$error = "get_id_value needs the name of a global identifier";
		return;
		}

	local value = lookup_ID(args[0]);

	# These two strings stand for errors.
	if ( type_name(value) == "string" )
		{
		local text = value as string;

		if ( text == "<unknown id>" || text == "<no ID value>" )
			{
			result$success = F;
			result$error = text[1:-1];
			return;
			}
		}

	result$data = to_json(value);
	}

event Management::Node::API::node_dispatch_request(reqid: string, action: vector of string, nodes: set[string])
	{
	if ( |nodes| > 0 && node !in nodes )
		return;

	local result = Result($reqid=reqid, $node=node);

	if ( |action| == 0 )
		{
		result$success = F;
		result$error = "the dispatch names no action";
		}
	else if ( action[0] == "get_id_value" )
		get_id_value(action[1:], result);
	else
		{
		result$success = F;
		result$error = fmt("no such dispatch: %s", action[0]);
		}

	Broker::publish(node_topic, Management::Node::API::node_dispatch_response, reqid, result);
	}

event Broker::peer_added(endpoint: Broker::EndpointInfo, msg: string)
	{
	if ( agent_port == "" || ! endpoint?$network )
		return;

	if ( endpoint$network$address == agent_address && endpoint$network$bound_port == to_port(agent_port) )
		Broker::publish(node_topic, Management::Node::API::notify_node_hello, node);
	}

event ZeekClusterAgent::initialized()
	{
	# In the background, and its output is this node's stderr.
	if ( agent_port == "" && program != "" )
		system(fmt("%s notify --ready", safe_shell_quote(program)));
	}

event zeek_init() &priority=-10
	{
	if ( agent_port != "" )
		{
		Broker::subscribe(node_topic);
		Broker::peer(agent_address, to_port(agent_port), 1sec);
		}

	event ZeekClusterAgent::initialized();
	}

@endif
